import { randomBytes } from 'node:crypto'
import type { Connection, DedicatedConnection } from '../../adapters/adapter.ts'
import { toBoolean } from '../../adapters/shape.ts'
import { DatabaseError, LockError } from '../../base/errors.ts'
import { CONFIRM_MS, type Grant, type Store } from '../../protocol/store.ts'
import type { Context } from './context.ts'
import { explain } from './errors.ts'

/** What a hand-off is notified with. */
interface Notification {
  readonly name: string
  readonly owner: string
  readonly token: string
  readonly takeover: boolean
  readonly checkpointed: boolean
  readonly weight: number | null
  readonly slot: number | null
  /** Milliseconds since 1970 by the server's clock. */
  readonly expiresAt: number
}

/** How much faster than ours the server's clock is taken to run, at most. */
const CLOCK_DRIFT = 0.01

export function sessions({
  adapter,
  own,
  fragments: { table },
}: Context<never>): Pick<Required<Store<never>>, 'openSession' | 'listen'> {
  /** A connection of our own that holds the advisory lock `id`, and thereby shows that this process lives. */
  async function openLocked(id: string, purpose: string): Promise<DedicatedConnection> {
    const connection = await own.attach(purpose)
    try {
      const { rows } = await connection.query({
        // In a session that is a pooler's own the lock would stay behind, and so would the settings. These come in the same
        // message, since the next one may ask whether we live (see `dead`). An idle session would be ended, too.
        text: `select backend,
                 case when is_direct then pg_try_advisory_lock($1::bigint) end as locked,
                 case when is_direct then set_config('rowlock.own_locks',
                   concat_ws(',', nullif(current_setting('rowlock.own_locks', true), ''), $1::text), false) end as told,
                 case when is_direct then (select set_config(name, '0', false) from pg_settings where name = 'idle_session_timeout') end as idle
               from (select pg_backend_pid() as backend, pg_backend_pid() = coalesce($2::int, pg_backend_pid()) as is_direct) as s`,
        values: [id, connection.backendId ?? null],
      })
      const backend = Number(rows[0]?.backend)
      if (connection.backendId !== undefined && connection.backendId !== backend) {
        throw new LockError(
          'UNSUPPORTED',
          `${purpose} needs a direct connection: a pooler (PgBouncer or the like) stands between, and its sessions are not ours. Give fromPg a direct pool as its sessions option, or do without`,
        )
      }
      if (!toBoolean(rows[0]?.locked))
        throw new DatabaseError('conflict', 'the session lock is taken', { cause: undefined })
      return connection
    } catch (error) {
      await connection.close()
      throw error instanceof LockError ? error : explain(error, false, table)
    }
  }

  /** The connection goes on, so the lock has to be given back by itself. */
  async function unlock(connection: DedicatedConnection, id: string): Promise<void> {
    await connection.query({
      text: `select pg_advisory_unlock($1::bigint),
                    set_config('rowlock.own_locks', array_to_string(array_remove(
                      string_to_array(current_setting('rowlock.own_locks', true), ','), $1::text), ','), false)`,
      values: [id],
    })
    await connection.close()
  }

  return {
    async openSession(onLost) {
      const id = (randomBytes(8).readBigInt64BE() >> 1n).toString()
      const connection = await openLocked(id, "takeover: 'session'")
      connection.onLost(onLost)
      return {
        id,
        ping: () => connection.query({ text: 'select 1', values: [] }),
        drop: async () => connection.drop?.(),
        close: () => unlock(connection, id),
      }
    },

    async listen(process, onGrant, onLost) {
      if (!own.isWanted && adapter.single !== true) {
        throw new LockError('UNSUPPORTED', 'LISTEN needs a connection, and ownConnection is false')
      }
      const channel = `rowlock_${process}`
      const clock = new ServerClock()
      const hear = (payload: string) => onGrant(toGrant(process, JSON.parse(payload) as Notification, clock))
      if (adapter.dedicate === undefined && adapter.listen !== undefined) {
        const ping = () => clock.compare(adapter)
        await ping()
        return { provesLife: false, ping, close: await adapter.listen(channel, hear) }
      }
      const connection = await openLocked(process, 'LISTEN')
      const ping = () => clock.compare(connection)
      try {
        if (connection.onNotification === undefined) {
          throw new LockError('UNSUPPORTED', 'this driver does not pass on notifications')
        }
        await ping()
        connection.onNotification(hear)
        await connection.query({ text: `listen "${channel}"`, values: [] })
        connection.onLost(onLost)
        return {
          provesLife: true,
          ping,
          drop: async () => connection.drop?.(),
          async close() {
            await connection.query({ text: `unlisten "${channel}"`, values: [] })
            await unlock(connection, process)
          },
        }
      } catch (error) {
        await connection.close()
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

/** The expiry that a notification tells is a time of the server's; here it is not before what follows from when this asked. */
class ServerClock {
  #sentAt = 0
  #now = 0

  async compare(connection: Connection): Promise<void> {
    const sentAt = performance.now()
    const { rows } = await connection.query({
      text: 'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
      values: [],
    })
    this.#sentAt = sentAt
    this.#now = Number(rows[0]?.now)
  }

  leftUntil(time: number): number {
    const sinceAsked = performance.now() - this.#sentAt
    const leftMs = time - this.#now - sinceAsked * (1 + CLOCK_DRIFT)
    // More than a hand-off ever lasts: the server's clock has been set since, and says nothing until it is asked again.
    return leftMs > CONFIRM_MS ? 0 : leftMs
  }
}

function toGrant(process: string, notification: Notification, clock: ServerClock): Grant {
  const { name, owner, token, takeover, checkpointed, weight, slot, expiresAt } = notification
  return {
    name,
    owner,
    token: BigInt(token),
    process,
    takeover,
    checkpointed,
    remainingMs: clock.leftUntil(expiresAt),
    weight,
    ...(slot !== null && { slot }),
  }
}
