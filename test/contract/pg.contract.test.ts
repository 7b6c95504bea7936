import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { fromPg } from '../../src/adapters/pg.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

/** What is peculiar to the driver pg. */
describe.each(inject('servers').filter(({ engine }) => engine === 'postgres'))('fromPg on $name', (server) => {
  let database: TestDatabase
  let pool: pg.Pool
  let locks: Locks<Parameters<Awaited<ReturnType<typeof acquire>>['guard']>[0]>
  const acquire = () => createLocks(fromPg(pool)).acquire('x')

  beforeAll(async () => {
    database = await createDatabase(server)
    pool = createPgPool({ connectionString: database.url })
    locks = createLocks(fromPg(pool), { ttl: '20s' })
    await locks.migrate()
  })
  afterAll(async () => {
    await locks.close()
    await pool.end()
    await database.drop()
  })

  it('notices that no transaction is open, also with a version of pg that does not tell', async () => {
    const lease = await locks.acquire(freshName())
    const client = await pool.connect()
    // Before pg 8.21 a client had no getTransactionStatus.
    const older = { query: client.query.bind(client) as typeof client.query }
    for (const tx of [client, older]) {
      await expect(lease.guard(tx)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      await client.query('begin')
      await lease.guard(tx)
      await client.query('commit')
    }
    client.release()
    expect(await lease.release()).toBe(true)
  })

  it('sends statements unprepared once a pooler has lost a prepared one', async () => {
    const single = createPgPool({ connectionString: database.url, max: 1 })
    const own = createLocks(fromPg(single), { ttl: '20s' })
    const first = await own.acquire(freshName())
    // As a pooler does it when it hands the connection to somebody else.
    await single.query('deallocate all')
    expect(await first.release()).toBe(true)
    await single.query('deallocate all')
    const second = await own.acquire(freshName())
    expect(await second.release()).toBe(true)
    await own.close()
    await single.end()
  })
})
