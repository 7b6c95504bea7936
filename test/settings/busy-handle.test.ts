import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { expect, it, onTestFinished } from 'vitest'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { type Adapter, createLocks } from '../../src/index.ts'
import { recordEvents, settled } from '../contract/harness.ts'

const adapters: Record<string, (database: Database.Database) => Adapter<never>> = {
  'better-sqlite3': (database) => fromBetterSqlite3(database) as Adapter<never>,
  Drizzle: (database) => fromDrizzle(drizzle(database)) as Adapter<never>,
}

async function setUp(adapter: (database: Database.Database) => Adapter<never>) {
  const folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
  const database = new Database(join(folder, 'locks.sqlite'))
  database.pragma('journal_mode = wal')
  const locks = createLocks(adapter(database), { wait: '20s', statementTimeout: '500ms' })
  await locks.migrate()
  onTestFinished(async () => {
    await locks.close()
    database.close()
    await rm(folder, { recursive: true })
  })
  return { database, locks }
}

const ROWS = 'with recursive rows(n) as (select 1 union all select n + 1 from rows where n < 9) select n from rows'

it.each(Object.keys(adapters))(
  'while the application iterates over rows, %s waits until it has ended',
  async (name) => {
    const { database, locks } = await setUp(adapters[name]!)
    const lease = await locks.acquire('held')
    const rows = database.prepare(ROWS).iterate()
    rows.next()
    const acquiring = settled(locks.acquire('free'))
    const extending = settled(lease.extend('1m'))
    await expect(locks.tryAcquire('never')).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringMatching(/handle of its own|no answer within/),
    })
    rows.return?.()
    expect(await acquiring).toMatchObject({ status: 'fulfilled' })
    await extending
    expect(lease.isHeld()).toBe(true)
  },
)

it.each(Object.keys(adapters))('a lease of %s outlives an iteration that is shorter than its ttl', async (name) => {
  const { database, locks } = await setUp(adapters[name]!)
  const events = recordEvents(locks)
  const lease = await locks.acquire('held', { ttl: '3s' })
  const rows = database.prepare(ROWS).iterate()
  rows.next()
  await expect.poll(() => events.some(({ type }) => type === 'unknown'), { timeout: 20_000 }).toBe(true)
  const unknown = events.find((event) => event.type === 'unknown')
  expect(unknown?.type === 'unknown' && String(unknown.cause)).toContain('give rowlock a handle of its own')
  rows.return?.()
  await expect.poll(() => events.at(-1)?.type, { timeout: 20_000 }).toBe('renewed')
  expect(lease.isHeld()).toBe(true)
  expect(await lease.release()).toBe(true)
})
