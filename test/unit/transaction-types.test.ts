import type { PGlite, Transaction as PgliteTransaction } from '@electric-sql/pglite'
import type { Database as BetterSqlite3 } from 'better-sqlite3'
import type { Kysely, Transaction as KyselyTransaction } from 'kysely'
import type mysql from 'mysql2/promise'
import type pg from 'pg'
import { describe, expectTypeOf, it } from 'vitest'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { fromMemory, type MemoryTransaction } from '../../src/adapters/memory.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPglite } from '../../src/adapters/pglite.ts'
import { createLocks, type Lease } from '../../src/index.ts'

/** What guards accept: checked by the compiler, against the drivers' own types, so that a drift of theirs is noticed. */
describe('the transaction type of an adapter', () => {
  type GuardOf<Make extends (...args: never[]) => unknown> =
    ReturnType<Make> extends Promise<Lease<infer Tx>> ? Tx : never

  const usage = {
    pg: (pool: pg.Pool) => createLocks(fromPg(pool)).acquire('x'),
    mysql2: (pool: mysql.Pool) => createLocks(fromMysql2(pool)).acquire('x'),
    betterSqlite3: (database: BetterSqlite3) => createLocks(fromBetterSqlite3(database)).acquire('x'),
    pglite: (pglite: PGlite) => createLocks(fromPglite(pglite)).acquire('x'),
    kysely: (db: Kysely<{ person: { id: number } }>) => createLocks(fromKysely(db)).acquire('x'),
    memory: () => createLocks(fromMemory()).acquire('x'),
  }

  it('is that of its driver', () => {
    expectTypeOf<pg.PoolClient>().toExtend<GuardOf<typeof usage.pg>>()
    expectTypeOf<pg.Client>().toExtend<GuardOf<typeof usage.pg>>()
    expectTypeOf<mysql.PoolConnection>().toExtend<GuardOf<typeof usage.mysql2>>()
    expectTypeOf<BetterSqlite3>().toExtend<GuardOf<typeof usage.betterSqlite3>>()
    expectTypeOf<PgliteTransaction>().toExtend<GuardOf<typeof usage.pglite>>()
    expectTypeOf<GuardOf<typeof usage.kysely>>().toEqualTypeOf<KyselyTransaction<{ person: { id: number } }>>()
    expectTypeOf<GuardOf<typeof usage.memory>>().toEqualTypeOf<MemoryTransaction>()
  })

  it('is not that of anything else', () => {
    expectTypeOf<string>().not.toExtend<GuardOf<typeof usage.pg>>()
    expectTypeOf<object>().not.toExtend<GuardOf<typeof usage.mysql2>>()
    expectTypeOf<PGlite>().not.toExtend<GuardOf<typeof usage.pglite>>()
    expectTypeOf<Kysely<unknown>>().not.toExtend<GuardOf<typeof usage.kysely>>()
    expectTypeOf<object>().not.toExtend<GuardOf<typeof usage.memory>>()
  })
})
