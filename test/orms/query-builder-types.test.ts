import type { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import type { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import type { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import type { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import type { Knex } from 'knex'
import type { Sql, TransactionSql } from 'postgres'
import { expectTypeOf, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromPostgresJs } from '../../src/adapters/postgres-js.ts'
import { createLocks, type Locks } from '../../src/index.ts'

// Read by the compiler only: these fail in `npm run check` when the types of an ORM move away from ours.

/** What guards of these locks take. */
type TransactionOf<L> = L extends Locks<infer Tx> ? Tx : never

it('fromPostgresJs takes a Sql, and its guards take a TransactionSql', () => {
  const locks = (sql: Sql) => createLocks(fromPostgresJs(sql))
  type Tx = TransactionOf<ReturnType<typeof locks>>
  expectTypeOf<TransactionSql>().toExtend<Tx>()
  expectTypeOf<Sql>().not.toExtend<Tx>()
  expectTypeOf<string>().not.toExtend<Tx>()
  expectTypeOf<TransactionSql<{ bigint: bigint }>>().toExtend<Tx>()
  // @ts-expect-error
  ;(tx: TransactionSql) => fromPostgresJs(tx)
})

it('fromKnex takes a Knex, and its guards take a Knex.Transaction', () => {
  const locks = (knex: Knex) => createLocks(fromKnex(knex))
  type Tx = TransactionOf<ReturnType<typeof locks>>
  expectTypeOf<Knex.Transaction>().toExtend<Tx>()
  expectTypeOf<Knex>().not.toExtend<Tx>()
  expectTypeOf<string>().not.toExtend<Tx>()
  ;(knex: Knex): SqlAdapter<Knex.Transaction> => fromKnex(knex)
})

it('fromDrizzle takes what drizzle() answers, and its guards take what db.transaction gives', () => {
  const locks = {
    pg: (db: ReturnType<typeof drizzlePg>) => createLocks(fromDrizzle(db)),
    postgresJs: (db: ReturnType<typeof drizzlePostgresJs>) => createLocks(fromDrizzle(db)),
    mysql: (db: ReturnType<typeof drizzleMysql>) => createLocks(fromDrizzle(db)),
    sqlite: (db: ReturnType<typeof drizzleSqlite>) => createLocks(fromDrizzle(db)),
  }
  type TransactionIn<Db extends { transaction: (use: never) => unknown }> = Parameters<Db['transaction']>[0] extends (
    tx: infer Tx,
  ) => unknown
    ? Tx
    : never

  type Pg = TransactionOf<ReturnType<typeof locks.pg>>
  expectTypeOf<Pg>().toEqualTypeOf<TransactionIn<ReturnType<typeof drizzlePg>>>()
  expectTypeOf<ReturnType<typeof drizzlePg>>().not.toExtend<Pg>()
  expectTypeOf<string>().not.toExtend<Pg>()

  type PostgresJs = TransactionOf<ReturnType<typeof locks.postgresJs>>
  expectTypeOf<PostgresJs>().toEqualTypeOf<TransactionIn<ReturnType<typeof drizzlePostgresJs>>>()
  expectTypeOf<ReturnType<typeof drizzlePostgresJs>>().not.toExtend<PostgresJs>()

  type MySql = TransactionOf<ReturnType<typeof locks.mysql>>
  expectTypeOf<MySql>().toEqualTypeOf<TransactionIn<ReturnType<typeof drizzleMysql>>>()
  expectTypeOf<ReturnType<typeof drizzleMysql>>().not.toExtend<MySql>()
  expectTypeOf<Pg>().not.toExtend<MySql>()

  // Synchronous transactions, or the database itself with one that was begun by hand.
  type Sqlite = TransactionOf<ReturnType<typeof locks.sqlite>>
  expectTypeOf<TransactionIn<ReturnType<typeof drizzleSqlite>>>().toExtend<Sqlite>()
  expectTypeOf<ReturnType<typeof drizzleSqlite>>().toExtend<Sqlite>()
  expectTypeOf<string>().not.toExtend<Sqlite>()
})

it('refuses what is no transaction, as code is written', () => {
  const written = async (db: ReturnType<typeof drizzlePg>, knex: Knex, sql: Sql) => {
    const lease = await createLocks(fromDrizzle(db)).acquire('x')
    await db.transaction((tx) => lease.guard(tx))
    await db.transaction((tx) => lease.guard(() => tx))
    // @ts-expect-error
    await lease.guard('tx')
    // @ts-expect-error
    await lease.guard(db)

    const locks = createLocks(fromKnex(knex))
    await knex.transaction((tx) => locks.within(tx).acquire('x'))
    // @ts-expect-error
    locks.within(knex)

    const viaPostgresJs = createLocks(fromPostgresJs(sql))
    await sql.begin((tx) => viaPostgresJs.within(tx).acquire('x'))
    // @ts-expect-error
    viaPostgresJs.within(sql)
  }
  expectTypeOf(written).toBeFunction()
})
