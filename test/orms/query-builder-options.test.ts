import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import createKnex from 'knex'
import mysql from 'mysql2/promise'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPostgresJs } from '../../src/adapters/postgres-js.ts'
import { type Adapter, createLocks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

/** What users set up in these libraries, and what must not disturb rowlock. */
for (const server of inject('servers').filter(({ name }) => name === 'postgres18' || name === 'mysql')) {
  describe(`on ${server.name}`, () => {
    let database: TestDatabase
    const closing: (() => Promise<unknown>)[] = []

    beforeAll(async () => {
      database = await createDatabase(server)
    })
    afterAll(async () => {
      for (const close of closing.reverse()) await close()
      await database.drop()
    })

    const locksOn = async <Tx>(adapter: Adapter<Tx>, close: () => Promise<unknown>) => {
      closing.push(close)
      const locks = createLocks(adapter, { ttl: '20s' })
      closing.push(() => locks.close())
      await locks.migrate()
      return locks
    }

    /** Everything that depends on the names and the types of what comes back. */
    const works = async <Tx>(adapter: Adapter<Tx>, close: () => Promise<unknown>) => {
      const locks = await locksOn(adapter, close)
      const expired = await locks.acquire(freshName(), { ttl: '20ms', renew: false })
      const lease = await locks.acquire(expired.name)
      expect(lease.token).toBeGreaterThan(expired.token)
      expect(await locks.tryAcquire(lease.name)).toBeNull()
      expect(await locks.inspect(lease.name)).toMatchObject({ token: lease.token, owner: lease.owner })
      await lease.extend('1m')
      expect(await lease.release()).toBe(true)
    }

    if (server.engine === 'postgres') {
      it('postgres.js may be told to prepare nothing, as poolers want it', async () => {
        const sql = postgres(database.url, { prepare: false, onnotice: () => undefined })
        await works(fromPostgresJs(sql), () => sql.end())
        const prepared = await sql`select count(*)::int as statements from pg_prepared_statements`
        expect(prepared[0]).toEqual({ statements: 0 })
      })

      it('Knex leaves question marks and repeated parameters of a guarded query alone', async () => {
        const knex = createKnex({ client: 'pg', connection: database.url })
        const locks = await locksOn(fromKnex(knex), () => knex.destroy())
        const lease = await locks.acquire(freshName())
        const rows = await knex.transaction((tx) =>
          lease.guarded(tx, {
            text: `select '{"a":1}'::jsonb ? $2 as found, $1::text as first, $1::text || '?' as again`,
            values: ['x', 'a'],
          }),
        )
        expect(rows).toEqual([{ found: true, first: 'x', again: 'x?' }])
        await lease.release()
      })

      it('their errors reach the caller as the driver made them', async () => {
        const pool = createPgPool({ connectionString: database.url })
        const db = drizzlePg(pool)
        const knex = createKnex({ client: 'pg', connection: database.url })
        const sql = postgres(database.url, { onnotice: () => undefined })
        const missing = { text: 'select * from missing', values: [] }
        const undefinedTable = { code: '42P01', message: 'relation "missing" does not exist' }
        const viaDrizzle = await locksOn(fromDrizzle(db), () => pool.end())
        const viaKnex = await locksOn(fromKnex(knex), () => knex.destroy())
        const viaPostgresJs = await locksOn(fromPostgresJs(sql), () => sql.end())
        const attempts = [
          () => db.transaction(async (tx) => (await viaDrizzle.acquire(freshName())).guarded(tx, missing)),
          () => knex.transaction(async (tx) => (await viaKnex.acquire(freshName())).guarded(tx, missing)),
          () => sql.begin(async (tx) => (await viaPostgresJs.acquire(freshName())).guarded(tx, missing)),
        ]
        for (const attempt of attempts) await expect(attempt()).rejects.toMatchObject(undefinedTable)
      })

      it('says that no server answers', async () => {
        const nowhere = 'postgres://nobody@localhost:1/nothing'
        const pool = createPgPool({ connectionString: nowhere })
        const knex = createKnex({ client: 'pg', connection: nowhere, log: { warn: () => undefined } })
        const sql = postgres(nowhere, { connect_timeout: 1 })
        for (const adapter of [fromDrizzle(drizzlePg(pool)), fromKnex(knex), fromPostgresJs(sql)]) {
          const locks = createLocks<never>(adapter as Adapter<never>, { statementTimeout: '1s' })
          await expect(locks.inspect('x')).rejects.toMatchObject({ code: 'DATABASE', failure: 'connection' })
          await locks.close()
        }
        await Promise.all([pool.end(), knex.destroy(), sql.end({ timeout: 0 })])
      })

      it("takeover: 'session' works with a pool of pg beside them", async () => {
        const sessions = createPgPool({ connectionString: database.url })
        closing.push(() => sessions.end())
        const knex = createKnex({ client: 'pg', connection: database.url })
        const sql = postgres(database.url, { onnotice: () => undefined })
        const beside = { sessions: fromPg(sessions) }
        const all = [
          await locksOn(fromDrizzle(drizzlePg(sessions), beside), async () => undefined),
          await locksOn(fromKnex(knex, beside), () => knex.destroy()),
          await locksOn(fromPostgresJs(sql, beside), () => sql.end()),
        ]
        for (const locks of all) {
          const lease = await locks.acquire(freshName(), { takeover: 'session' })
          expect(await lease.release()).toBe(true)
        }
        // Knex and Drizzle open a connection beside their pool themselves; that of postgres.js is not known to be gone.
        const without = await locksOn(fromDrizzle(drizzlePg(sessions)), async () => undefined)
        expect(await (await without.acquire(freshName(), { takeover: 'session' })).release()).toBe(true)
        const unknown = await locksOn(fromPostgresJs(sql), async () => undefined)
        await expect(unknown.acquire(freshName(), { takeover: 'session' })).rejects.toMatchObject({
          code: 'UNSUPPORTED',
        })
      })
    }

    if (server.engine === 'mysql') {
      it('Drizzle may be given a URL, with which it makes a pool that answers big numbers as text', async () => {
        const db = drizzleMysql(database.url)
        await works(fromDrizzle(db), () => db.$client.promise().end())
      })

      it("takeover: 'session' works with a pool of mysql2 beside them", async () => {
        const pool = mysql.createPool({ uri: database.url })
        closing.push(() => pool.end())
        const knex = createKnex({ client: 'mysql2', connection: database.url })
        const beside = { sessions: fromMysql2(pool) }
        const all = [
          await locksOn(fromDrizzle(drizzleMysql(pool), beside), async () => undefined),
          await locksOn(fromKnex(knex, beside), () => knex.destroy()),
        ]
        for (const locks of all) {
          const lease = await locks.acquire(freshName(), { takeover: 'session' })
          expect(await lease.release()).toBe(true)
        }
      })
    }
  })
}

it('what is not of the ORM is refused by name', () => {
  const knex = createKnex({ client: 'better-sqlite3', connection: ':memory:', useNullAsDefault: true })
  for (const wrong of [undefined, null, {}, 'url', knex]) {
    expect(() => fromPostgresJs(wrong as never)).toThrow('fromPostgresJs takes')
    expect(() => fromDrizzle(wrong as never)).toThrow('fromDrizzle takes')
    if (wrong !== knex) expect(() => fromKnex(wrong as never)).toThrow('fromKnex takes')
  }
  expect(() => fromKnex(createKnex({ client: 'mssql' }))).toThrow('mssql')
})
