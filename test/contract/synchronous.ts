import { beforeAll, expect, it, vi } from 'vitest'
import { createLocks, LockLostError } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { freshName } from '../engines.ts'
import type { Subject } from './harness.ts'

/** What better-sqlite3 and node:sqlite have in common. */
export interface SynchronousDatabase {
  exec(sql: string): unknown
  prepare(sql: string): { all(): unknown[] }
}

/** What is set on the connection meanwhile. */
async function settings(database: SynchronousDatabase, during: () => Promise<unknown>): Promise<string[]> {
  const executed = vi.spyOn(database, 'exec')
  await during()
  const texts = executed.mock.calls.map(([text]) => text)
  executed.mockRestore()
  return texts
}

/** Guards in transactions that cannot await anything. */
export function synchronousSuite(
  subject: Subject,
  transaction: (database: SynchronousDatabase, body: () => void) => void,
): void {
  let database: SynchronousDatabase

  beforeAll(async () => {
    database = (await subject.connected.transaction(async (tx) => tx)) as SynchronousDatabase
    database.exec('create table writes (note text not null)')
  })

  const write = (note: string) => database.exec(`insert into writes (note) values ('${note}')`)
  const written = (note: string) => database.prepare(`select 1 from writes where note = '${note}'`).all().length === 1

  it('commits while the lease stands', async () => {
    const lease = await subject.locks.acquire(freshName())
    transaction(database, () => {
      lease.guard(database)
      write(lease.name)
    })
    expect(written(lease.name)).toBe(true)
    expect(await lease.release()).toBe(true)
  })

  it('throws in the transaction, which rolls it back, when the lease is lost', async () => {
    const { locks, others } = subject
    const [forced, expired, released] = await Promise.all([
      locks.acquire(freshName()),
      locks.acquire(freshName(), { ttl: '100ms', renew: false }),
      locks.acquire(freshName()),
    ])
    await others.forceRelease(forced.name)
    await others.acquire(expired.name)
    await released.release()
    for (const lease of [forced, expired, released]) {
      const run = () =>
        transaction(database, () => {
          write(`${lease.name} before`)
          lease.guard(database)
          expect.unreachable('the guard must throw')
        })
      expect(run).toThrow(LockLostError)
      expect(written(`${lease.name} before`)).toBe(false)
    }
  })

  it('throws at once outside of a transaction, and on another handle', async () => {
    const { locks, engine, database: opened } = subject
    const lease = await locks.acquire(freshName())
    expect(() => lease.guard(database)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    const stranger = await connectors[engine.connector as 'better-sqlite3'](opened.url)
    await stranger.transaction(async (tx) => {
      expect(() => lease.guard(tx)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    })
    await stranger.close()
    await lease.release()
  })

  it('says that the transaction cannot go on when somebody else is writing to the file', async () => {
    const { locks, engine, database: opened } = subject
    const lease = await locks.acquire(freshName())
    const writer = await connectors[engine.connector as 'better-sqlite3'](opened.url)
    database.exec('pragma busy_timeout = 0')
    await writer.transaction(async () => {
      database.exec('begin')
      expect(() => lease.guard(database)).toThrow(expect.objectContaining({ code: 'TRANSACTION_ABORTED' }))
      database.exec('rollback')
    })
    await writer.close()
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
  })

  it('keeps the busy_timeout that the database was given', async () => {
    database.exec('pragma busy_timeout = 1234')
    await (await subject.locks.acquire(freshName())).release()
    expect(database.prepare('pragma busy_timeout').all()).toEqual([{ timeout: 1234 }])
  })

  it('does not wait for the disk to renew, and keeps the synchronous that the database was given', async () => {
    const { locks, engine } = subject
    database.exec('pragma synchronous = full')
    const lease = await locks.acquire(freshName())
    expect(await settings(database, () => lease.extend('1m'))).toContain('pragma synchronous = 1')
    expect(database.prepare('pragma synchronous').all()).toEqual([{ synchronous: 2 }])
    expect(await settings(database, () => lease.release())).not.toContain('pragma synchronous = 1')

    // Without a write-ahead log a power failure could then destroy the file.
    const connected = await connectors[engine.connector as 'better-sqlite3'](':memory:')
    const other = (await connected.transaction(async (tx) => tx)) as SynchronousDatabase
    await using others = createLocks(connected.adapter)
    await others.migrate()
    const second = await others.acquire(freshName())
    expect(await settings(other, () => second.extend('1m'))).not.toContain('pragma synchronous = 1')
    await second.release()
    await connected.close()
  })
}
