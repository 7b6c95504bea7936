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
      await locks.close()
      await pool.end()
      await database.drop()
    })

    const inTransaction = async <T>(client: pg.PoolClient, body: () => Promise<T>): Promise<T> => {
      await client.query('begin')
      try {
        return await body()
      } finally {
        await client.query('rollback')
      }
    }

    it('is good again after its first transaction with rowlock had failed already', async () => {
      const client = await pool.connect()
      const failed = inTransaction(client, async () => {
        await client.query('select 1 / 0').catch(() => undefined)
        await lease.guard(client)
      })
      await expect(failed).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
      await inTransaction(client, async () => {
        await lease.guard(client)
        expect((await locks.within(client).acquire(freshName())).token).toBeGreaterThan(0n)
      })
      client.release()
    })

    it.each(['discard all', 'deallocate all'])('may have forgotten all prepared statements by %s', async (forget) => {
      const client = await pool.connect()
      for (let round = 0; round < 3; round++) {
        await inTransaction(client, async () => {
          await lease.guard(client)
          expect(await lease.guarded(client, { text: 'select 1 as one', values: [] })).toEqual([{ one: 1 }])
          expect((await locks.within(client).acquire(freshName())).token).toBeGreaterThan(0n)
        })
        await client.query(forget)
      }
      client.release()
    })

    it('may forget them in the middle of a transaction', async () => {
      const client = await pool.connect()
      await inTransaction(client, async () => {
        await lease.guard(client)
        await client.query('deallocate all')
        await lease.guard(client)
        await lease.release(client)
      })
      client.release()
    })

    it('runs what a caller sends under a guard as it would run it without, after the type of a column has changed', async () => {
      await pool.query('create table stock (id integer primary key, amount integer)')
      await pool.query('insert into stock values (1, 1)')
      const update = { text: 'update stock set amount = $1 where id = $2', values: ['2', 1] }
      const select = { text: 'select amount from stock where id = $1', values: [1] }
      const client = await pool.connect()
      for (const type of ['integer', 'text', 'bigint using amount::bigint', 'text', 'varchar(10)']) {
        await pool.query(`alter table stock alter column amount type ${type}`)
        await client.query('begin')
        await client.query(update)
        const plain = (await client.query(select)).rows
        await lease.guarded(client, update)
        expect(await lease.guarded(client, select)).toEqual(plain)
        await client.query('commit')
      }
      client.release()
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
