import mysql from 'mysql2/promise'
import { describe, expect, inject, it } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import { createDatabase } from '../connect.ts'
import { eventually, recordEvents, untilWaiting } from '../contract/harness.ts'
import { freshName } from '../engines.ts'

/** What applications and administrators set for their sessions. */
const MODES: readonly string[] = [
  "sql_mode = ''",
  "sql_mode = 'ANSI,TRADITIONAL,ONLY_FULL_GROUP_BY,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,HIGH_NOT_PRECEDENCE'",
  "sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES,IGNORE_SPACE,NO_UNSIGNED_SUBTRACTION,REAL_AS_FLOAT,NO_AUTO_VALUE_ON_ZERO'",
  'sql_safe_updates = 1',
  'sql_select_limit = 1',
  'group_concat_max_len = 4',
  'max_join_size = 1000, sql_big_selects = 0',
  'big_tables = 1',
  "time_zone = '+05:30', collation_connection = 'latin1_bin'",
  "optimizer_switch = 'derived_merge=off,index_merge=off,materialization=off,semijoin=off,mrr=on,mrr_cost_based=off'",
]

const MARIADB_MODES: readonly string[] = [
  "sql_mode = 'ORACLE'",
  "sql_mode = 'ORACLE,EMPTY_STRING_IS_NULL,SIMULTANEOUS_ASSIGNMENT,TIME_ROUND_FRACTIONAL'",
  "sql_mode = 'EMPTY_STRING_IS_NULL,STRICT_ALL_TABLES'",
  "sql_mode = 'MSSQL'",
]

for (const server of inject('servers').filter(({ engine }) => engine === 'mysql')) {
  const modes = server.flavour === 'mariadb' ? [...MODES, ...MARIADB_MODES] : MODES

  describe.each(modes)(`on ${server.name}, with %s`, { timeout: 60_000 }, (mode) => {
    it('every verb does what it does elsewhere', async () => {
      const database = await createDatabase(server)
      const pool = mysql.createPool({ uri: database.url, connectionLimit: 4 })
      pool.pool.on('connection', (connection) => connection.query(`set session ${mode.replaceAll(', ', ', session ')}`))
      try {
        await using locks = createLocks(fromMysql2(pool), { ttl: '600ms', wait: '30s' })
        await locks.migrate()
        await useEveryVerb(locks, pool)
      } finally {
        await pool.end()
        await database.drop()
      }
    })
  })
}

async function useEveryVerb(locks: Locks<mysql.PoolConnection>, pool: mysql.Pool): Promise<void> {
  const events = recordEvents(locks)
  const names = Array.from({ length: 3 }, freshName).sort()
  const leases = await Promise.all(names.map((name) => locks.acquire(name)))
  expect((await locks.list()).map(({ name }) => name)).toEqual(names)
  expect((await locks.list({ prefix: names[0]! })).map(({ name }) => name)).toEqual([names[0]])

  // Renewed together, since they are due together.
  const renewals = () => events.filter(({ type }) => type === 'renewed').length
  await eventually(() => expect(renewals()).toBeGreaterThanOrEqual(2 * names.length))
  expect(leases.every((lease) => lease.isHeld())).toBe(true)

  const abort = new AbortController()
  const leaving = locks.acquire(names[0]!, { signal: abort.signal })
  leaving.catch(() => undefined)
  await untilWaiting(locks, names[0]!)
  const waiting = [locks.acquire(names[0]!), locks.acquire(names[0]!), locks.acquire(names[1]!)]
  await untilWaiting(locks, names[0]!, 3)
  abort.abort()
  await expect(leaving).rejects.toBe(abort.signal.reason)
  await untilWaiting(locks, names[0]!, 2)
  expect(await Promise.all(leases.map((lease) => lease.release()))).toEqual([true, true, true])
  for (const next of waiting) expect(await (await next).release()).toBe(true)

  // Nobody is left behind as the owner of what was released.
  expect(await owners(pool)).toEqual([null, null, null])
  await (await locks.acquire(names[0]!)).release()
  await (await locks.acquire(names[2]!, { wait: 0 })).release()
  expect(events.filter(({ type }) => type === 'takeover' || type === 'lost')).toEqual([])

  await inTransaction(pool, async (tx) => {
    await locks.within(tx).acquire(names[0]!)
    expect(await locks.tryAcquire(names[0]!)).toBeNull()
  })
  const both = await Promise.all(names.slice(1).map((name) => locks.acquire(name)))
  await inTransaction(pool, async (tx) => {
    await Promise.all(both.map((lease: Lease<mysql.PoolConnection>) => lease.guard(tx)))
  })
  expect(await locks.forceRelease(names[1]!)).toBe(true)
  await expect(inTransaction(pool, (tx) => both[0]!.guard(tx))).rejects.toMatchObject({ code: 'LOCK_LOST' })
  expect(await both[1]!.release()).toBe(true)
  expect(await locks.purge({ idleFor: 0 })).toBe(names.length)
}

async function owners(pool: mysql.Pool): Promise<unknown[]> {
  const [rows] = await pool.query('select owner from rowlock_locks limit 100')
  return (rows as { owner: unknown }[]).map(({ owner }) => owner)
}

async function inTransaction(pool: mysql.Pool, body: (tx: mysql.PoolConnection) => Promise<void>): Promise<void> {
  const connection = await pool.getConnection()
  try {
    await connection.beginTransaction()
    await body(connection)
    await connection.commit()
  } catch (error) {
    await connection.rollback()
    throw error
  } finally {
    connection.release()
  }
}
