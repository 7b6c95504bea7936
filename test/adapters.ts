import { readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import type Sqlite from 'better-sqlite3'
import { Kysely, MysqlDialect, PostgresDialect, SqliteDialect } from 'kysely'
import mysqlCallbacks from 'mysql2'
import mysql from 'mysql2/promise'
import pg from 'pg'
import { fromBetterSqlite3 } from '../src/adapters/better-sqlite3.ts'
import { fromKysely } from '../src/adapters/kysely.ts'
import { fromMemory, MemoryDatabase } from '../src/adapters/memory.ts'
import { fromMysql2 } from '../src/adapters/mysql2.ts'
import { fromNodeSqlite } from '../src/adapters/node-sqlite.ts'
import { fromPg } from '../src/adapters/pg.ts'
import { fromPglite } from '../src/adapters/pglite.ts'
import type { Adapter } from '../src/index.ts'
import { cached } from './servers/cache.ts'

/** What a test sees of an adapter: the same for all, so that one suite serves every engine. */
export interface Connected {
  readonly adapter: Adapter<unknown>
  /** Runs `body` in one transaction, of the given isolation level: commits if it resolves, rolls back if it rejects. */
  transaction<T>(body: (tx: unknown) => Promise<T>, isolation?: Isolation): Promise<T>
  /** Runs a statement by itself, or in the transaction `tx`. */
  sql(text: string, tx?: unknown): Promise<Record<string, unknown>[]>
  /** Handles of the driver that are no open transactions. */
  withoutTransaction(use: (handle: unknown, what: string) => Promise<void>): Promise<unknown>
  close(): Promise<void>
}

export type Isolation = 'read committed' | 'repeatable read' | 'serializable'

export interface ConnectOptions {
  /** Connections in the pool, for adapters that have one. */
  readonly poolSize?: number
  /** Called with each text that is executed, by drivers that tell. */
  readonly onExecuted?: (text: unknown) => void
}

type Rows = Record<string, unknown>[]

function over<Tx>(adapter: Adapter<Tx>, rest: Omit<Connected, 'adapter'>): Connected {
  return { adapter: adapter as Adapter<unknown>, ...rest }
}

async function bracketed<T>(run: (sql: string) => Promise<unknown>, begin: string, body: () => Promise<T>): Promise<T> {
  await run(begin)
  try {
    const result = await body()
    await run('commit')
    return result
  } catch (error) {
    await run('rollback')
    throw error
  }
}

/** Each makes a connection as a process of its own would. `url` is that of a server's database, or a file's path. */
export const connectors = {
  pg(url: string, { poolSize = 5 }: ConnectOptions = {}): Connected {
    const pool = createPgPool({ connectionString: url, max: poolSize })
    return over(fromPg(pool), {
      async transaction(body, isolation = 'read committed') {
        const client = await pool.connect()
        try {
          return await bracketed(
            (sql) => client.query(sql),
            `begin isolation level ${isolation}`,
            () => body(client),
          )
        } finally {
          client.release()
        }
      },
      sql: async (text, tx) => (await ((tx as pg.PoolClient | undefined) ?? pool).query(text)).rows,
      async withoutTransaction(use) {
        await use(pool, 'the pool')
        const client = await pool.connect()
        await use(client, 'a client that has not begun a transaction')
        await client.query('begin; commit')
        await use(client, 'a client whose transaction has ended')
        client.release()
        await use(client, 'a client that was given back')
      },
      close: () => pool.end(),
    })
  },

  mysql2(url: string, { poolSize = 5 }: ConnectOptions = {}): Connected {
    const pool = mysql.createPool({ uri: url, connectionLimit: poolSize })
    return over(fromMysql2(pool), {
      async transaction(body, isolation = 'repeatable read') {
        const connection = await pool.getConnection()
        try {
          await connection.query(`set transaction isolation level ${isolation}`)
          return await bracketed(
            (sql) => connection.query(sql),
            'start transaction',
            () => body(connection),
          )
        } finally {
          connection.release()
        }
      },
      async sql(text, tx) {
        const [rows] = await ((tx as mysql.PoolConnection | undefined) ?? pool).query(text)
        return Array.isArray(rows) ? (rows as Rows) : []
      },
      async withoutTransaction(use) {
        await use(pool, 'the pool')
        const connection = await pool.getConnection()
        await use(connection, 'a connection that has not begun a transaction')
        await connection.query('start transaction')
        await connection.query('commit')
        await use(connection, 'a connection whose transaction has ended')
        connection.release()
        await use(connection, 'a connection that was given back')
      },
      close: () => pool.end(),
    })
  },

  /** Loaded only here: a native module fits one version of Node. */
  async 'better-sqlite3'(path: string, { onExecuted }: ConnectOptions = {}): Promise<Connected> {
    const { default: Database } = await import('better-sqlite3')
    const database: Sqlite.Database = new Database(path, onExecuted && { verbose: onExecuted })
    database.pragma('journal_mode = wal')
    return over(fromBetterSqlite3(database), {
      transaction: (body) =>
        bracketed(
          async (sql) => database.exec(sql),
          'begin immediate',
          () => body(database),
        ),
      async sql(text) {
        const statement = database.prepare(text)
        if (statement.reader) return statement.all() as Rows
        statement.run()
        return []
      },
      withoutTransaction: (use) => use(database, 'the database, without a transaction'),
      close: async () => void database.close(),
    })
  },

  async 'node-sqlite'(path: string): Promise<Connected> {
    const { DatabaseSync } = (await import('node:sqlite' as string)) as {
      DatabaseSync: new (path: string) => NodeSqlite
    }
    const database = new DatabaseSync(path)
    database.exec('pragma journal_mode = wal')
    return over(fromNodeSqlite(database), {
      transaction: (body) =>
        bracketed(
          async (sql) => database.exec(sql),
          'begin immediate',
          () => body(database),
        ),
      sql: async (text) => database.prepare(text).all() as Rows,
      withoutTransaction: (use) => use(database, 'the database, without a transaction'),
      close: async () => void database.close(),
    })
  },

  async pglite(): Promise<Connected> {
    const pglite = await PGlite.create({ loadDataDir: new Blob([await emptyPgliteCluster()]) })
    return over(fromPglite(pglite), {
      transaction: (body, isolation = 'read committed') =>
        pglite.transaction(async (tx) => {
          await tx.query(`set transaction isolation level ${isolation}`)
          return body(tx)
        }),
      sql: async (text, tx) => (await ((tx as typeof pglite | undefined) ?? pglite).query(text)).rows as Rows,
      async withoutTransaction(use) {
        await use(pglite, 'the PGlite')
        const ended: unknown[] = []
        await pglite.transaction(async (tx) => void ended.push(tx))
        await use(ended[0], 'a transaction that has ended')
      },
      close: () => pglite.close(),
    })
  },

  memory(database = new MemoryDatabase()): Connected {
    return over(fromMemory(database), {
      transaction: (body) => database.transaction(body),
      sql: () => Promise.reject(new Error('the in-memory engine runs no SQL')),
      async withoutTransaction(use) {
        await use(database, 'the database')
        await use(await database.transaction(async (tx) => tx), 'a transaction that has ended')
      },
      close: async () => undefined,
    })
  },

  'kysely-postgres'(url: string, { poolSize = 5 }: ConnectOptions = {}): Connected {
    const pool = createPgPool({ connectionString: url, max: poolSize })
    return overKysely(new Kysely({ dialect: new PostgresDialect({ pool }) }))
  },

  'kysely-mysql'(url: string, { poolSize = 5 }: ConnectOptions = {}): Connected {
    const pool = mysqlCallbacks.createPool({ uri: url, connectionLimit: poolSize })
    return overKysely(new Kysely({ dialect: new MysqlDialect({ pool }) }))
  },

  async 'kysely-sqlite'(path: string): Promise<Connected> {
    const { default: Database } = await import('better-sqlite3')
    // Kysely waits in the driver; a short patience leaves the event loop alone.
    const database = new Database(path, { timeout: 50 })
    database.pragma('journal_mode = wal')
    return overKysely(new Kysely({ dialect: new SqliteDialect({ database }) }))
  },
}

/** What PGlite makes when it starts without data, which takes it seconds; loading that takes a fraction of them. */
async function emptyPgliteCluster(): Promise<Buffer<ArrayBuffer>> {
  const { version } = createRequire(import.meta.url)('../node_modules/@electric-sql/pglite/package.json')
  const directory = await cached(`pglite-${version}`, 'an empty PGlite', async (draft) => {
    const pglite = await PGlite.create()
    const dump = await pglite.dumpDataDir('none')
    await writeFile(join(draft, 'cluster.tar'), Buffer.from(await dump.arrayBuffer()))
    await pglite.close()
  })
  return readFile(join(directory, 'cluster.tar'))
}

interface NodeSqlite {
  readonly isTransaction: boolean
  exec(sql: string): void
  prepare(sql: string): { all(...values: unknown[]): unknown[]; run(...values: unknown[]): unknown }
  close(): void
}

/**
 * Connections that the server ends while nothing is asked of them end no test. That includes those of a pool that has ended:
 * its `end()` does not wait for the server, which meanwhile may drop the database.
 */
export function createPgPool(config: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool(config)
  pool.on('error', () => undefined)
  pool.on('connect', (client) => client.on('error', () => undefined))
  return pool
}

function overKysely(db: Kysely<unknown>): Connected {
  const run = async (target: Kysely<unknown>, text: string) => {
    const { CompiledQuery } = await import('kysely')
    return (await target.executeQuery(CompiledQuery.raw(text))).rows as Rows
  }
  return over(fromKysely(db), {
    transaction(body, isolation) {
      const builder = db.transaction()
      return (isolation === undefined ? builder : builder.setIsolationLevel(isolation)).execute(body)
    },
    sql: (text, tx) => run((tx as Kysely<unknown> | undefined) ?? db, text),
    async withoutTransaction(use) {
      await use(db, 'the Kysely instance')
      await db.connection().execute((connection) => use(connection, 'a connection of it'))
      const ended = await db.transaction().execute(async (tx) => () => tx)
      await use(ended, 'a transaction that has ended')
      const controlled = await db.startTransaction().execute()
      await controlled.rollback().execute()
      await use(controlled, 'a transaction that was rolled back by hand')
    },
    close: () => db.destroy(),
  })
}
