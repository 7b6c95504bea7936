import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { sql } from 'drizzle-orm/sql'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { createLocks, LockLostError } from '../../src/index.ts'
import { freshName } from '../engines.ts'

describe("Drizzle's synchronous transactions of better-sqlite3", () => {
  let folder: string
  const open = () => {
    const db = drizzle(join(folder, 'locks.sqlite'))
    const locks = createLocks(fromDrizzle(db), { ttl: '20s' })
    return { db, locks }
  }
  let here: ReturnType<typeof open>
  let elsewhere: ReturnType<typeof open>

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
    here = open()
    elsewhere = open()
    await here.locks.migrate()
    here.db.run(sql`create table ledger (entry text not null)`)
  })

  afterAll(async () => {
    for (const { db, locks } of [here, elsewhere]) {
      await locks.close()
      db.$client.close()
    }
    await rm(folder, { recursive: true })
  })

  const write = (tx: Pick<typeof here.db, 'run'>, entry: string) => tx.run(sql`insert into ledger values (${entry})`)
  const written = (entry: string) => here.db.all(sql`select entry from ledger where entry = ${entry}`).length

  it('commit under a lease that stands', async () => {
    const lease = await here.locks.acquire(freshName())
    here.db.transaction((tx) => {
      lease.guard(tx)
      write(tx, lease.name)
    })
    expect(written(lease.name)).toBe(1)
    expect(await lease.release()).toBe(true)
  })

  it('throw synchronously, and roll back, when the lease is lost', async () => {
    const lease = await here.locks.acquire(freshName(), { renew: false })
    await elsewhere.locks.forceRelease(lease.name)
    const commit = () =>
      here.db.transaction((tx) => {
        write(tx, lease.name)
        lease.guard(tx)
      })
    expect(commit).toThrow(LockLostError)
    expect(written(lease.name)).toBe(0)
  })

  it('accept a guard in a nested transaction', async () => {
    const lease = await here.locks.acquire(freshName())
    here.db.transaction((tx) =>
      tx.transaction((nested) => {
        lease.guard(nested)
        write(nested, lease.name)
      }),
    )
    expect(written(lease.name)).toBe(1)
    expect(await lease.release()).toBe(true)
  })

  it('refuse an asynchronous callback, and nothing of it is committed', async () => {
    const lease = await here.locks.acquire(freshName())
    let body: Promise<void> | undefined
    const commit = () =>
      here.db.transaction((tx) => {
        body = (async () => {
          write(tx, lease.name)
          await lease.guard(tx)
          // By now the transaction is over: this would commit by itself.
          write(tx, lease.name)
        })()
        return body
      })
    expect(commit).toThrow('Transaction function cannot return a promise')
    await expect(body).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('async') })
    expect(written(lease.name)).toBe(0)
    expect(await lease.release()).toBe(true)
  })
})
