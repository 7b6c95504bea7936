import { randomBytes } from 'node:crypto'
import { DatabaseError, LockError } from '../../base/errors.ts'
import type { HolderSession, Store } from '../../protocol/store.ts'
import { readTopology, sessionRefusal } from '../topology.ts'
import type { Context } from './context.ts'
import { explain } from './errors.ts'

/** A day; the session is pinged more often. */
const LONGEST_IDLE_SECONDS = 86_400

export function sessions({ own, fragments: { table } }: Context<never>): Pick<Store<never>, 'openSession'> {
  return {
    async openSession(onLost): Promise<HolderSession> {
      const connection = await own.attach("takeover: 'session'")
      try {
        const refused = sessionRefusal(await readTopology('mysql', (query) => connection.query(query)))
        if (refused !== null) throw refused
        const id = `rowlock:${randomBytes(16).toString('hex')}`
        const { rows } = await connection.query({
          // In a session that is a proxy's own the lock would stay behind.
          text: 'select connection_id() as backend, case when coalesce(?, connection_id()) = connection_id() then get_lock(?, 0) end as locked',
          values: [connection.backendId ?? null, id],
        })
        if (connection.backendId !== undefined && connection.backendId !== Number(rows[0]?.backend)) {
          throw new LockError(
            'UNSUPPORTED',
            "takeover: 'session' needs a direct connection: a proxy that shares sessions stands between. Give fromMysql2 a direct pool as its sessions option, or use takeover: 'expiry'",
          )
        }
        if (Number(rows[0]?.locked) !== 1)
          throw new DatabaseError('other', 'the session lock could not be taken', { cause: undefined })
        // An idle session would be ended. This one is rowlock's own.
        await connection.query({ text: `set session wait_timeout = ${LONGEST_IDLE_SECONDS}`, values: [] })
        connection.onLost(onLost)
        return {
          id,
          ping: () => connection.query({ text: 'select 1', values: [] }),
          drop: async () => connection.drop?.(),
          async close() {
            await connection.query({ text: 'do release_lock(?)', values: [id] })
            await connection.close()
          },
        }
      } catch (error) {
        await connection.close()
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}
