import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import Database from 'better-sqlite3'
import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import createKnex, { type Knex } from 'knex'
import { Kysely, MysqlDialect, PostgresDialect, SqliteDialect } from 'kysely'
import mysqlCallbacks from 'mysql2'
import mysql from 'mysql2/promise'
import pg from 'pg'
import postgres from 'postgres'
import { Sequelize } from 'sequelize'
import { DataSource } from 'typeorm'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPglite } from '../../src/adapters/pglite.ts'
import { fromPostgresJs } from '../../src/adapters/postgres-js.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { fromTypeorm } from '../../src/adapters/typeorm.ts'
import { type Adapter, createLocks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, query, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'
import { ormConnectors } from '../orms/connectors.ts'
import { expectRefusal, type Setup, useEverything } from './use.ts'

const open: Setup[] = []

afterEach(async () => {
  for (const { close } of open.splice(0).reverse()) await close()
})

function setup<Tx>(adapter: Adapter<Tx>, rest: Omit<Setup, 'adapter'>): Setup {
  const made: Setup = { adapter: adapter as Adapter<unknown>, ...rest }
  open.push(made)
  return made
}

/** Of pg and mysql2, which leave transactions to their users. */
function bracketed<Client extends { query(text: string): Promise<unknown>; release(): void }>(
  connect: () => Promise<Client>,
): Setup['transaction'] {
  return async (body) => {
    const client = await connect()
    try {
      await client.query('begin')
      const result = await body(client)
      await client.query('commit')
      return result
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
  }
}

function onKysely(kysely: Kysely<unknown>): Setup {
  return setup(fromKysely(kysely), {
    transaction: (body) => kysely.transaction().execute(body),
    close: () => kysely.destroy(),
  })
}

function onKnex(config: Knex.Config): Setup {
  const knex = createKnex(config)
  return setup(fromKnex(knex), { transaction: (body) => knex.transaction(body), close: () => knex.destroy() })
}

function onSequelize(url: string, options: object): Setup {
  const sequelize = new Sequelize(url, { logging: false, ...options })
  return setup(fromSequelize(sequelize), {
    transaction: (body) => sequelize.transaction(body),
    close: () => sequelize.close(),
  })
}

/** All that the documentation of Knex suggests to do with these, and more. */
const KNEX_HOOKS: Pick<Knex.Config, 'postProcessResponse' | 'wrapIdentifier'> = {
  wrapIdentifier: (value, original) => original(`${value}_of_ours`),
  postProcessResponse: (result) => (Array.isArray(result) ? result.map(() => 'a row') : { nothing: result }),
}

for (const server of inject('servers').filter(({ engine }) => engine === 'mysql')) {
  describe(`rows in other shapes on ${server.name}`, () => {
    let database: TestDatabase
    beforeEach(async () => {
      database = await createDatabase(server)
    })
    afterEach(() => database.drop())

    const upperCased = (field: { string(): string | null }) => field.string()?.toUpperCase() ?? null
    const shapes: Record<string, mysql.PoolOptions> = {
      rowsAsArray: { rowsAsArray: true },
      nestTables: { nestTables: true },
      'nestTables with a separator': { nestTables: '_' },
      'a typeCast that turns all into text': { typeCast: upperCased },
      'typeCast turned off': { typeCast: false },
      'numbers as text': { supportBigNumbers: true, bigNumberStrings: true, dateStrings: true },
      'decimals as numbers': { decimalNumbers: true },
    }

    it.each(Object.entries(shapes))('a pool of mysql2 may be set up with %s', async (_, options) => {
      const pool = mysql.createPool({ uri: database.url, ...options })
      const transaction = bracketed(() => pool.getConnection())
      await useEverything(setup(fromMysql2(pool), { transaction, close: () => pool.end() }))
    })

    it('what a caller runs under a guard comes back as the caller has set it up', async () => {
      const pool = mysql.createPool({ uri: database.url, rowsAsArray: true })
      const transaction = bracketed(() => pool.getConnection())
      const { adapter } = setup(fromMysql2(pool), { transaction, close: () => pool.end() })
      const locks = createLocks(adapter)
      await locks.migrate()
      const lease = await locks.acquire(freshName())
      const text = 'select 1 as one, 2 as two'
      expect(await transaction((tx) => lease.guarded(tx, { text, values: [] }))).toEqual([[1, 2]])
      await lease.release()
      await locks.close()
    })

    const tolerated: Record<string, mysqlCallbacks.PoolOptions> = {
      // As Kysely's documentation has it.
      'a typeCast that turns tinyint(1) into booleans': {
        typeCast: (field, next) => (field.type === 'TINY' && field.length === 1 ? field.string() === '1' : next()),
      },
      'a typeCast that turns numbers into bigints': {
        typeCast: (field, next) => (/^(LONG|LONGLONG|TINY)$/.test(field.type) ? BigInt(field.string() ?? 0) : next()),
      },
      'typeCast turned off': { typeCast: false },
    }

    it.each(Object.entries(tolerated))('a pool under Kysely may be set up with %s', async (_, options) => {
      const pool = mysqlCallbacks.createPool({ uri: database.url, ...options })
      await useEverything(onKysely(new Kysely({ dialect: new MysqlDialect({ pool }) })))
    })

    const unreadable: Record<string, mysql.PoolOptions> = {
      rowsAsArray: { rowsAsArray: true },
      nestTables: { nestTables: true },
      'nestTables with a separator': { nestTables: '_' },
    }

    for (const [title, options] of Object.entries(unreadable)) {
      const under: Record<string, () => Setup> = {
        Kysely() {
          const pool = mysqlCallbacks.createPool({ uri: database.url, ...options } as mysqlCallbacks.PoolOptions)
          return onKysely(new Kysely({ dialect: new MysqlDialect({ pool }) }))
        },
        Drizzle() {
          const pool = mysql.createPool({ uri: database.url, ...options })
          const db = drizzleMysql(pool)
          return setup(fromDrizzle(db), { transaction: (body) => db.transaction(body), close: () => pool.end() })
        },
      }
      it.each(Object.keys(under))(
        `a pool under %s with ${title} is refused, and migrating keeps no lock`,
        async (orm) => {
          const refused = under[orm]!()
          await expectRefusal(refused)
          const locks = createLocks(refused.adapter)
          await expect(locks.migrate()).rejects.toMatchObject({ code: 'UNSUPPORTED' })
          // While the pool is open: an end of its connections would free the lock as well.
          expect(await query(database.url, "select is_used_lock('rowlock:migrate') as connection")).toEqual([
            { connection: null },
          ])
          await locks.close()
        },
      )
    }

    it('a migration that fails halfway keeps no lock on the pool, and can be repeated', async () => {
      const { adapter } = onKysely(
        new Kysely({ dialect: new MysqlDialect({ pool: mysqlCallbacks.createPool(database.url) }) }),
      )
      await query(database.url, 'create table rowlock_migrations (other varchar(10))')
      const locks = createLocks(adapter)
      await expect(locks.migrate()).rejects.toMatchObject({ code: expect.any(String) })
      expect(await query(database.url, "select is_used_lock('rowlock:migrate') as connection")).toEqual([
        { connection: null },
      ])
      await query(database.url, 'drop table rowlock_migrations')
      expect(await locks.migrate()).not.toEqual([])
      await locks.close()
    })

    it.each([...Object.entries(shapes), ['hooks of Knex', {}] as const])(
      'Knex may be set up with %s',
      async (_, options) => {
        const connection = { uri: database.url, ...options } as unknown as Knex.MySql2ConnectionConfig
        await useEverything(onKnex({ client: 'mysql2', connection, ...KNEX_HOOKS }))
      },
    )

    it('Sequelize may be told to answer one row, or nested ones, by default', async () => {
      await useEverything(onSequelize(database.url, { query: { plain: true, nest: true, raw: false } }))
    })

    it('TypeORM may be told to answer big numbers as text', async () => {
      const connected = await new DataSource({
        type: 'mysql',
        url: database.url,
        bigNumberStrings: true,
        supportBigNumbers: true,
        extra: tolerated['a typeCast that turns tinyint(1) into booleans'],
      }).initialize()
      await useEverything(
        setup(fromTypeorm(connected), {
          transaction: (body) => connected.transaction(body),
          close: () => connected.destroy(),
        }),
      )
    })
  })
}

for (const server of inject('servers').filter(({ name }) => name === 'postgres18')) {
  describe(`rows in other shapes on ${server.name}`, () => {
    let database: TestDatabase
    beforeEach(async () => {
      database = await createDatabase(server)
    })
    afterEach(() => database.drop())

    const { builtins } = pg.types
    type Parsers = Record<number, (value: string) => unknown>
    const parsers: Record<string, Parsers> = {
      'booleans as text': { [builtins.BOOL]: (value) => value },
      'booleans as numbers': { [builtins.BOOL]: (value) => (value === 't' ? 1 : 0) },
      'numbers as bigints and text': {
        [builtins.INT8]: BigInt,
        [builtins.INT4]: BigInt,
        [builtins.FLOAT8]: (value) => value,
        [builtins.NUMERIC]: Number,
      },
      'numbers as objects of a library': {
        [builtins.FLOAT8]: (value) => ({ valueOf: () => value }),
        [builtins.INT4]: (value) => ({ toString: () => value }),
      },
      'JSON and times as text': {
        [builtins.JSON]: (value) => value,
        [builtins.JSONB]: (value) => value,
        [builtins.TIMESTAMPTZ]: (value) => value,
      },
    }
    const strange: Parsers = {
      [builtins.BOOL]: (value) => (value === 't' ? 'Y' : 'N'),
      [builtins.FLOAT8]: () => 'a number',
      [builtins.TEXT]: (value) => value.toUpperCase(),
    }

    const onPg = (config: pg.PoolConfig) => {
      const pool = createPgPool({ connectionString: database.url, ...config })
      return setup(fromPg(pool), { transaction: bracketed(() => pool.connect()), close: () => pool.end() })
    }
    const typesOf = (own: Parsers): pg.CustomTypesConfig =>
      ({
        getTypeParser: (type: number, format?: 'text' | 'binary') => own[type] ?? pg.types.getTypeParser(type, format),
      }) as pg.CustomTypesConfig

    it.each(Object.entries({ ...parsers, 'what nobody can read': strange }))(
      'a pool of pg may be set up with %s',
      async (_, own) => {
        await useEverything(onPg({ types: typesOf(own) }))
      },
    )

    it('a pool of pg may be told to receive values in binary', async () => {
      await useEverything(onPg({ binary: true } as pg.PoolConfig))
    })

    it('what a caller runs under a guard comes back as the caller has set it up', async () => {
      const { adapter, transaction } = onPg({ types: typesOf(strange) })
      const locks = createLocks(adapter)
      await locks.migrate()
      const lease = await locks.acquire(freshName())
      const text = "select true as yes, 'text'::text as text"
      expect(await transaction((tx) => lease.guarded(tx, { text, values: [] }))).toEqual([{ yes: 'Y', text: 'TEXT' }])
      await lease.release()
      await locks.close()
    })

    /** Which all share the parsers that are global to pg. */
    const onPgInside: Record<string, () => Setup | Promise<Setup>> = {
      Kysely: () =>
        onKysely(
          new Kysely({ dialect: new PostgresDialect({ pool: createPgPool({ connectionString: database.url }) }) }),
        ),
      Knex: () => onKnex({ client: 'pg', connection: database.url, ...KNEX_HOOKS }),
      Drizzle() {
        const pool = createPgPool({ connectionString: database.url })
        const db = drizzlePg(pool)
        return setup(fromDrizzle(db), { transaction: (body) => db.transaction(body), close: () => pool.end() })
      },
      TypeORM: async () => setupOf(await ormConnectors['typeorm-postgres'](database.url)),
      Sequelize: () => onSequelize(database.url, { query: { plain: true, nest: true, raw: false } }),
      MikroORM: async () => setupOf(await ormConnectors['mikro-orm-postgresql'](database.url)),
    }

    async function withGlobalParsers(own: Parsers, use: () => Promise<void>): Promise<void> {
      const before = Object.keys(own).map((type) => [Number(type), pg.types.getTypeParser(Number(type))] as const)
      for (const [type, parser] of Object.entries(own)) pg.types.setTypeParser(Number(type), parser)
      try {
        await use()
      } finally {
        for (const [type, parser] of before) pg.types.setTypeParser(type, parser)
      }
    }

    for (const [title, own] of Object.entries(parsers)) {
      it.each(Object.keys(onPgInside))(`all of pg may be set up with ${title}, under %s`, async (orm) => {
        await withGlobalParsers(own, async () => useEverything(await onPgInside[orm]!()))
      })
    }

    it.each(['Kysely', 'Drizzle', 'TypeORM'])('booleans that nobody can read are refused, under %s', async (orm) => {
      await withGlobalParsers({ [builtins.BOOL]: strange[builtins.BOOL]! }, async () =>
        expectAcquireRefused(await onPgInside[orm]!()),
      )
    })

    it('booleans as text are refused under Prisma, which takes both of them for true', async () => {
      await withGlobalParsers(parsers['booleans as text']!, async () =>
        expectAcquireRefused(setupOf(await ormConnectors['prisma-pg'](database.url))),
      )
    })

    const { camel, kebab, pascal } = postgres
    const transforms: Record<string, postgres.Options<Record<string, postgres.PostgresType>>> = {
      'camel case': { transform: camel },
      'pascal case': { transform: pascal },
      'kebab case': { transform: kebab },
      'a null for undefined': { transform: { undefined: null } },
      'booleans as numbers': {
        types: { bool: { to: 16, from: [16], serialize: String, parse: (value: string) => (value === 't' ? 1 : 0) } },
      },
      bigints: { types: { bigint: postgres.BigInt } },
    }

    const onPostgresJs = (options: object) => {
      const sql = postgres(database.url, { onnotice: () => undefined, ...options })
      open.push({ close: () => sql.end() } as Setup)
      return {
        adapter: fromPostgresJs(sql) as Adapter<unknown>,
        transaction: (body: never) => sql.begin(body),
        close: async () => undefined,
      } as unknown as Setup
    }

    it.each(Object.entries(transforms))('postgres.js may be set up with %s', async (_, options) => {
      await useEverything(onPostgresJs(options))
    })

    it.each([
      ['a row transform that keeps nothing', { transform: { row: () => ({}) } }],
      ['a row transform that fails', { transform: { row: (row: { own: object }) => Object.keys(row.own) } }],
      ['a row transform that changes values', { transform: { row: (row: object) => ({ ...row, token: 1 }) } }],
      ['a value transform that empties texts', { transform: { value: (value: unknown) => value || null } }],
      ['names of columns that cannot be asked back', { transform: { column: (name: string) => `_${name}` } }],
      [
        'booleans that nobody can read',
        { types: { bool: { to: 16, from: [16], serialize: String, parse: () => 'Y' } } },
      ],
    ])('postgres.js is refused with %s', (_, options) => {
      expect(() => onPostgresJs(options)).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }))
    })
  })
}

function setupOf(connected: Setup): Setup {
  open.push(connected)
  return connected
}

async function expectAcquireRefused({ adapter }: Setup): Promise<void> {
  const locks = createLocks(adapter)
  const name = freshName()
  await expect(locks.acquire(name)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  await locks.close()
}

describe('rows in other shapes of SQLite', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  const openDatabase = () => {
    const database = new Database(join(folder, 'locks.sqlite'))
    database.pragma('journal_mode = wal')
    database.defaultSafeIntegers(true)
    return database
  }

  it('better-sqlite3 may answer bigints, and goes on to do so for what a caller runs under a guard', async () => {
    const database = openDatabase()
    const transaction: Setup['transaction'] = async (body) => {
      database.exec('begin immediate')
      try {
        const result = await body(database)
        database.exec('commit')
        return result
      } catch (error) {
        database.exec('rollback')
        throw error
      }
    }
    const made = setup(fromBetterSqlite3(database), { transaction, close: async () => database.close() })
    await useEverything(made)
    const locks = createLocks(made.adapter)
    const lease = await locks.acquire(freshName())
    const rows = await transaction((tx) => lease.guarded(tx, { text: 'select 1 as one', values: [] }))
    expect(rows).toEqual([{ one: 1n }])
    await lease.release()
    await locks.close()
  })

  it('Knex may answer bigints, and have hooks', async () => {
    const connection = { filename: join(folder, 'locks.sqlite'), options: { safeIntegers: true } }
    await useEverything(
      onKnex({ client: 'better-sqlite3', connection: connection as never, useNullAsDefault: true, ...KNEX_HOOKS }),
    )
  })

  it('a database under Kysely may answer bigints', async () => {
    await useEverything(onKysely(new Kysely({ dialect: new SqliteDialect({ database: openDatabase() }) })))
  })
})

it('PGlite may be given parsers of its own', async () => {
  const pglite = await PGlite.create({
    parsers: { 16: (value) => (value === 't' ? 'Y' : 'N'), 23: () => 'a number', 25: (value) => value.toUpperCase() },
  })
  await useEverything(
    setup(fromPglite(pglite), { transaction: (body) => pglite.transaction(body), close: () => pglite.close() }),
  )
})
