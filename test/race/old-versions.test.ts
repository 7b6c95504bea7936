import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { createLocks } from '../../src/index.ts'
import { EXCLUSIVE, type Hold, type NewTicket, type Store } from '../../src/protocol/store.ts'
import { type Connected, connectors } from '../adapters.ts'
import { connect, createDatabase, type TestConnection, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

const servers = inject('servers').filter(({ engine }) => engine === 'postgres')
const TTL_MS = 60_000
const PROCESS = '7'

/**
 * Sessions stop at gates, which are in a policy of the table: it is asked about each row that a statement reads, and again
 * about a newer version that has been locked.
 */
const GATES = `
  create function gate() returns boolean language plpgsql volatile as $$
  declare
    turn int := coalesce(nullif(current_setting('test.turn', true), ''), '0')::int + 1;
    session int := hashtext(current_setting('application_name'));
  begin
    perform set_config('test.turn', turn::text, false);
    perform pg_advisory_lock_shared(session, turn);
    perform pg_advisory_unlock_shared(session, turn);
    return true;
  end $$;
  create role ROLE login;
  grant select, insert, update, delete on all tables in schema public to ROLE;
  alter table rowlock_locks enable row level security;
  create policy gates on rowlock_locks to ROLE using (gate())`

describe.each(servers)('on $name', (server) => {
  let database: TestDatabase
  let owner: TestConnection
  let role: string
  let migrated: Connected
  let first: Gated
  let second: Gated
  let plain: Store<unknown>

  beforeEach(async () => {
    database = await createDatabase(server)
    owner = await connect(database.url)
    migrated = connectors.pg(database.url)
    await createLocks(migrated.adapter).migrate()
    plain = storeOf(migrated)
    role = `gated_${freshName().replace(/\W/g, '_')}`
    await owner.query(GATES.replaceAll('ROLE', role))
    first = gated('first')
    second = gated('second')
  })

  afterEach(async () => {
    await Promise.all([first.connected.close(), second.connected.close(), migrated.close()])
    await owner.query(`drop owned by ${role}; drop role ${role}`)
    await owner.close()
    await database.drop()
  })

  function gated(session: string): Gated {
    const url = new URL(database.url)
    url.username = role
    url.searchParams.set('application_name', session)
    const connected = connectors.pg(url.href, { poolSize: 1 })
    return { session, connected, store: storeOf(connected) }
  }

  const close = ({ session }: Gated, turn: number) =>
    owner.query(`select pg_advisory_lock(hashtext('${session}'), ${turn})`)
  const open = ({ session }: Gated, turn: number) =>
    owner.query(`select pg_advisory_unlock(hashtext('${session}'), ${turn})`)

  /** Until the session's statement waits for a lock of this type. */
  async function untilWaiting({ session }: Gated, type: string): Promise<void> {
    await expect
      .poll(
        async () => {
          const [row] = await migrated.sql(
            `select l.locktype from pg_locks as l join pg_stat_activity as a using (pid)
           where not l.granted and a.application_name = '${session}'`,
          )
          return row?.locktype
        },
        { timeout: 10_000 },
      )
      .toBe(type)
  }

  it.each(verbs)(
    'two statements to $verb find a row changed since they began, under an open guard, and do not wait for each other',
    async ({ call, queued }) => {
      const hold = await held(plain)
      if (queued) await plain.enqueue([newTicket(hold.name, queued)], 100)
      for (const each of [first, second]) {
        await each.store.poll([hold.name])
        await each.connected.sql("select set_config('test.turn', '0', false)")
      }
      await close(first, 1)
      await close(first, 2)
      await close(second, 1)
      const one = call(first.store, hold)
      const other = call(second.store, hold)
      // Awaited below; one may have failed before.
      for (const each of [one, other]) each.catch(() => undefined)
      await untilWaiting(first, 'advisory')
      await untilWaiting(second, 'advisory')
      await migrated.transaction(async (tx) => {
        await plain.guard(tx, [{ ...hold, ttlMs: TTL_MS }])
        await plain.renew([{ ...hold, ttlMs: TTL_MS }])
        await open(first, 1)
        await untilWaiting(first, 'advisory')
        await open(second, 1)
        // SKIP LOCKED waits here nevertheless: for the other, who must not wait for it.
        await untilWaiting(second, 'transactionid')
        await open(first, 2)
        await Promise.all([one, other])
      })
      const [row] = await migrated.sql('select deadlocks from pg_stat_database where datname = current_database()')
      expect(Number(row?.deadlocks)).toBe(0)
    },
  )
})

interface Gated {
  readonly session: string
  readonly connected: Connected
  readonly store: Store<unknown>
}

const TICKET = 'e'.repeat(16)

const verbs: { verb: string; queued?: string; call(store: Store<unknown>, hold: Hold): Promise<unknown> }[] = [
  { verb: 'renew', call: (store, hold) => store.renew([{ ...hold, ttlMs: TTL_MS }]) },
  { verb: 'enqueue', call: (store, { name }) => store.enqueue([newTicket(name, TICKET)], 100) },
  { verb: 'withdraw', queued: TICKET, call: (store, { name }) => store.withdraw([{ name, ticket: TICKET, count: 1 }]) },
]

function storeOf({ adapter }: Connected): Store<unknown> {
  const own = new OwnConnection(adapter as SqlAdapter<never>, { enabled: false, timeoutMs: 5000 })
  return postgresStore(adapter as SqlAdapter<unknown>, {}, own)
}

async function held(store: Store<unknown>): Promise<Hold> {
  const attempt = {
    ...EXCLUSIVE,
    name: freshName(),
    owner: 'o'.repeat(32),
    ttlMs: TTL_MS,
    holder: 'test',
    session: null,
  }
  const [result] = await store.acquire([attempt])
  if (!result?.granted) throw new Error('a new lock is not free')
  return { ...attempt, token: result.token }
}

function newTicket(name: string, ticket: string): NewTicket {
  const terms = { ...EXCLUSIVE, ttlMs: TTL_MS, holder: 'test', session: null, process: PROCESS, waitMs: TTL_MS }
  return { name, ticket, count: 5, joins: null, listening: false, provenAlive: false, transaction: false, ...terms }
}
