import { CompiledQuery, Kysely, PostgresDialect } from 'kysely'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

/** What applications and poolers do with a connection before it comes to rowlock again. */
for (const server of inject('servers').filter(({ engine }) => engine === 'postgres')) {
  describe(`a pooled client of ${server.name}`, () => {
    let database: TestDatabase
    let pool: pg.Pool
    let locks: Locks<pg.PoolClient>
    let lease: Lease<pg.PoolClient>

    beforeEach(async () => {
      database = await createDatabase(server)
      pool = createPgPool({ connectionString: database.url, max: 4 })
      locks = createLocks(fromPg(pool), { ttl: '20s' }) as Locks<pg.PoolClient>
      await locks.migrate()
      lease = await locks.acquire(freshName())
    })
    afterEach(async () => {
      for (const client of borrowed.splice(0)) client.release()
      await locks.close()
      await pool.end()
      await database.drop()
    })

    const borrowed: pg.PoolClient[] = []
    const borrow = async () => {
      const client = await pool.connect()
      borrowed.push(client)
      return client
    }

    const inTransaction = async <T>(client: pg.PoolClient, body: () => Promise<T>): Promise<T> => {
      await client.query('begin')
      try {
        return await body()
      } finally {
        await client.query('rollback')
      }
    }

    it('is good again after its first transaction with rowlock had failed already', async () => {
      const client = await borrow()
      const failed = inTransaction(client, async () => {
        await client.query('select 1 / 0').catch(() => undefined)
        await lease.guard(client)
      })
      await expect(failed).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
      await inTransaction(client, async () => {
        await lease.guard(client)
        expect((await locks.within(client).acquire(freshName())).token).toBeGreaterThan(0n)
      })
    })

    it.each(['discard all', 'deallocate all'])(
      'may have forgotten all prepared statements by %s, which costs one transaction',
      async (forget) => {
        const client = await borrow()
        const aborted: unknown[] = []
        for (let round = 0; round < 4; round++) {
          const ended = inTransaction(client, async () => {
            await lease.guard(client)
            expect(await lease.guarded(client, { text: 'select 1 as one', values: [] })).toEqual([{ one: 1 }])
            expect((await locks.within(client).acquire(freshName())).token).toBeGreaterThan(0n)
          })
          await ended.catch((error: unknown) => aborted.push(error))
          await client.query(forget)
        }
        expect(aborted.length).toBeLessThan(2)
        for (const error of aborted) expect(error).toMatchObject({ code: 'TRANSACTION_ABORTED' })
      },
    )

    const uses: Record<string, (client: pg.PoolClient) => Promise<unknown>> = {
      guard: (client) => lease.guard(client),
      guarded: (client) => lease.guarded(client, { text: 'update rowlock_migrations set name = name', values: [] }),
    }

    it.each(Object.keys(uses))(
      'says so when it has forgotten them within a transaction, and is good again in the next: %s',
      async (verb) => {
        const client = await borrow()
        const use = uses[verb]!
        await inTransaction(client, async () => {
          await use(client)
          await client.query('deallocate all')
          await expect(use(client)).rejects.toMatchObject({
            code: 'TRANSACTION_ABORTED',
            message: expect.stringContaining('DISCARD'),
          })
        })
        await inTransaction(client, async () => {
          await use(client)
          await locks.within(client).acquire(freshName())
          await lease.release(client)
        })
      },
    )

    it('runs what a caller sends under a guard as it would run it without, after the type of a column has changed', async () => {
      await pool.query('create table stock (id integer primary key, amount integer)')
      await pool.query('insert into stock values (1, 1)')
      const update = { text: 'update stock set amount = $1 where id = $2', values: ['2', 1] }
      const select = { text: 'select amount from stock where id = $1', values: [1] }
      const client = await borrow()
      for (const type of ['integer', 'text', 'bigint using amount::bigint', 'text', 'varchar(10)']) {
        await pool.query(`alter table stock alter column amount type ${type}`)
        await client.query('begin')
        await client.query(update)
        const plain = (await client.query(select)).rows
        await lease.guarded(client, update)
        await lease.guarded(client, { text: 'update stock set amount = amount', values: [] })
        expect(await lease.guarded(client, select)).toEqual(plain)
        await client.query('commit')
      }
    })

    it('runs what a caller sends under a guard in the same way through Kysely', async () => {
      const kysely = new Kysely<unknown>({
        dialect: new PostgresDialect({ pool: createPgPool({ connectionString: database.url }) }),
      })
      const viaKysely = createLocks(fromKysely(kysely))
      const held = await viaKysely.acquire(freshName())
      await pool.query('create table stock (amount integer)')
      for (const type of ['integer', 'text', 'bigint using amount::bigint']) {
        await pool.query(`alter table stock alter column amount type ${type}`)
        await kysely
          .transaction()
          .execute((tx) => held.guarded(tx, CompiledQuery.raw('insert into stock values ($1)', ['1'])))
      }
      await viaKysely.close()
      await kysely.destroy()
    })
  })
}
