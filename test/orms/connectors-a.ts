import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import { sql as raw } from 'drizzle-orm/sql'
import createKnex, { type Knex } from 'knex'
import mysql from 'mysql2/promise'
import postgres from 'postgres'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromPostgresJs } from '../../src/adapters/postgres-js.ts'
import type { Adapter } from '../../src/index.ts'
import { type ConnectOptions, createPgPool } from '../adapters.ts'
import { type OrmConnected, type OrmEngine, onServer, onSqlite } from './engines.ts'

type Rows = Record<string, unknown>[]

function over<Tx>(adapter: Adapter<Tx>, rest: Omit<OrmConnected, 'adapter'>): OrmConnected {
  return { adapter: adapter as Adapter<unknown>, ...rest }
}

/** Each makes a connection as a process of its own would. `url` is that of a server's database, or a file's path. */
export const ormConnectors = {
  'postgres.js'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const sql = postgres(url, { max: poolSize, onnotice: () => undefined })
    return over(fromPostgresJs(sql), {
      db: sql,
      transaction: (body, isolation = 'read committed') =>
        sql.begin(`isolation level ${isolation}`, body) as Promise<never>,
      sql: async (text, tx) => [...(await ((tx as typeof sql | undefined) ?? sql).unsafe(text))],
      close: () => sql.end(),
    })
  },

  'knex-pg': (url: string, options?: ConnectOptions) => overKnex({ client: 'pg', connection: url }, options),
  'knex-mysql2': (url: string, options?: ConnectOptions) => overKnex({ client: 'mysql2', connection: url }, options),
  'knex-better-sqlite3': (filename: string) =>
    overKnex({
      client: 'better-sqlite3',
      connection: { filename },
      useNullAsDefault: true,
      pool: {
        afterCreate(database: { pragma(text: string): unknown }, done: () => void) {
          database.pragma('busy_timeout = 20')
          database.pragma('journal_mode = wal')
          done()
        },
      },
    }),

  'drizzle-node-postgres'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const pool = createPgPool({ connectionString: url, max: poolSize })
    const db = drizzlePg(pool)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'read committed') => db.transaction(body, { isolationLevel }),
      sql: async (text, tx) => (await ((tx as typeof db | undefined) ?? db).execute(text)).rows,
      close: () => pool.end(),
    })
  },

  'drizzle-postgres.js'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const client = postgres(url, { max: poolSize, onnotice: () => undefined })
    const db = drizzlePostgresJs(client)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'read committed') => db.transaction(body, { isolationLevel }),
      sql: async (text, tx) => [...(await ((tx as typeof db | undefined) ?? db).execute(text))],
      close: () => client.end(),
    })
  },

  'drizzle-mysql2'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const pool = mysql.createPool({ uri: url, connectionLimit: poolSize })
    const db = drizzleMysql(pool)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'repeatable read') => db.transaction(body, { isolationLevel }),
      async sql(text, tx) {
        const [rows] = await ((tx as typeof db | undefined) ?? db).execute(text)
        return Array.isArray(rows) ? (rows as unknown as Rows) : []
      },
      close: () => pool.end(),
    })
  },

  /** Bodies of tests are asynchronous, Drizzle's transactions with this driver are not; so these are begun by hand. */
  'drizzle-better-sqlite3'(path: string) {
    const db = drizzleSqlite(path)
    db.$client.pragma('journal_mode = wal')
    return over(fromDrizzle(db), {
      db,
      async transaction(body) {
        db.run(raw`begin immediate`)
        try {
          const result = await body(db)
          db.run(raw`commit`)
          return result
        } catch (error) {
          db.run(raw`rollback`)
          throw error
        }
      },
      async sql(text) {
        if (/^select/.test(text)) return db.all(raw.raw(text))
        db.run(raw.raw(text))
        return []
      },
      close: async () => void db.$client.close(),
    })
  },
} satisfies Record<string, (url: string, options?: ConnectOptions) => OrmConnected>

function overKnex(config: Knex.Config, { poolSize = 5 }: ConnectOptions = {}): OrmConnected {
  const pool = config.client === 'better-sqlite3' ? config.pool : { min: 0, max: poolSize }
  // It would tell of statements that still wait for a connection when a test closes the pool.
  const log = { warn: () => undefined, error: () => undefined }
  const knex = createKnex({ ...config, pool: pool ?? {}, log })
  return over(fromKnex(knex), {
    db: knex,
    transaction: (body, isolationLevel) =>
      knex.transaction(body, isolationLevel === undefined ? {} : { isolationLevel }),
    async sql(text, tx) {
      const answer = await ((tx as Knex | undefined) ?? knex).raw(text)
      if (config.client === 'mysql2') return Array.isArray(answer[0]) ? (answer[0] as Rows) : []
      return (config.client === 'pg' ? answer.rows : answer) as Rows
    },
    close: () => knex.destroy(),
  })
}

/** What these adapters are proven on. */
export function ormEngines(): OrmEngine[] {
  return [
    ...onServer('postgres.js', ormConnectors['postgres.js'], 'postgres18'),
    ...onServer('postgres.js', ormConnectors['postgres.js'], 'postgres15'),
    ...onServer('Knex', ormConnectors['knex-pg'], 'postgres18'),
    ...onServer('Knex', ormConnectors['knex-mysql2'], 'mysql'),
    ...onServer('Knex', ormConnectors['knex-mysql2'], 'mariadb'),
    onSqlite('Knex', ormConnectors['knex-better-sqlite3']),
    ...onServer('Drizzle (node-postgres)', ormConnectors['drizzle-node-postgres'], 'postgres18'),
    ...onServer('Drizzle (postgres.js)', ormConnectors['drizzle-postgres.js'], 'postgres18'),
    ...onServer('Drizzle (mysql2)', ormConnectors['drizzle-mysql2'], 'mysql'),
    ...onServer('Drizzle (mysql2)', ormConnectors['drizzle-mysql2'], 'mariadb'),
    onSqlite('Drizzle (better-sqlite3)', ormConnectors['drizzle-better-sqlite3']),
  ]
}
