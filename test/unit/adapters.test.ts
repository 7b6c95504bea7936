import { PGlite } from '@electric-sql/pglite'
import Database from 'better-sqlite3'
import { Kysely, MysqlAdapter, PostgresAdapter, PostgresDialect, SqliteDialect } from 'kysely'
import callbacks from 'mysql2'
import mysql from 'mysql2/promise'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromNodeSqlite } from '../../src/adapters/node-sqlite.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPglite } from '../../src/adapters/pglite.ts'

const pools = {
  pg: new pg.Pool(),
  promises: mysql.createPool({}),
  callbacks: callbacks.createPool({}),
}
const sqlite = new Database(':memory:')
const kysely = new Kysely<unknown>({ dialect: new SqliteDialect({ database: sqlite }) })

function kyselyWith(Adapter: new () => PostgresAdapter): Kysely<unknown> {
  const dialect = new PostgresDialect({ pool: pools.pg })
  dialect.createAdapter = () => new Adapter()
  return new Kysely({ dialect })
}

describe('adapters', () => {
  const makers: Record<string, { make: (from: never) => unknown; takes: unknown; not: unknown[] }> = {
    fromPg: { make: fromPg, takes: pools.pg, not: [new pg.Client(), sqlite] },
    fromMysql2: { make: fromMysql2, takes: pools.promises, not: [pools.callbacks, pools.pg] },
    fromBetterSqlite3: { make: fromBetterSqlite3, takes: sqlite, not: [pools.pg, kysely] },
    fromNodeSqlite: { make: fromNodeSqlite, takes: undefined, not: [sqlite, pools.pg] },
    fromPglite: { make: fromPglite, takes: Object.create(PGlite.prototype), not: [pools.pg, sqlite] },
    fromKysely: { make: fromKysely, takes: kysely, not: [sqlite, pools.pg] },
  }

  it.each(Object.entries(makers))('%s takes what its name says, and refuses all else', (name, { make, takes, not }) => {
    if (takes !== undefined) expect(make(takes as never)).toHaveProperty('engine')
    for (const each of [...not, undefined, null, {}, 'url', 42, () => undefined]) {
      expect(() => make(each as never), String(each)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(name) }),
      )
    }
  })

  it('fromMysql2 says what to do with a pool of the callback API', () => {
    expect(() => fromMysql2(pools.callbacks as never)).toThrow('pool.promise()')
    expect(fromMysql2(pools.callbacks.promise())).toHaveProperty('engine', 'mysql')
  })

  it('fromKysely refuses a transaction', async () => {
    await kysely.transaction().execute(async (tx) => {
      expect(() => fromKysely(tx)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    })
  })

  it('fromKysely knows the engine by the dialect, or is told', () => {
    class NeonPostgresAdapter extends PostgresAdapter {}
    class PlanetScaleMysqlAdapter extends MysqlAdapter {}
    class Unheard extends PostgresAdapter {}
    expect(fromKysely(kysely).engine).toBe('sqlite')
    expect(fromKysely(kyselyWith(NeonPostgresAdapter)).engine).toBe('postgres')
    expect(fromKysely(kyselyWith(PlanetScaleMysqlAdapter as never)).engine).toBe('mysql')
    expect(() => fromKysely(kyselyWith(Unheard))).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('engine') }),
    )
    expect(fromKysely(kyselyWith(Unheard), { engine: 'postgres' }).engine).toBe('postgres')
  })
})
