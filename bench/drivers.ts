import Database from 'better-sqlite3'
import mysql from 'mysql2/promise'
import pg from 'pg'
import type { Adapter } from '../src/index.ts'
import { fromBetterSqlite3, fromMysql2, fromPg } from './library.ts'
import { kindOf, type Target } from './servers.ts'
import { recorded } from './statements.ts'

export type Rows = Record<string, unknown>[]

/** A pool of connections to a database, or the handle of a file. */
export interface Connection {
  readonly adapter: Adapter<unknown>
  sql(text: string): Promise<Rows>
  /** Runs `body` between BEGIN and COMMIT; `tx` is what guards take, `sql` runs in the same transaction. */
  transaction(body: (tx: unknown, sql: (text: string) => Promise<Rows>) => Promise<unknown>): Promise<void>
  close(): Promise<unknown>
}

export async function connect(
  { engine, url }: Pick<Target, 'engine' | 'url'>,
  connections: number,
): Promise<Connection> {
  switch (kindOf(engine)) {
    case 'postgres':
      return connectPostgres(url, connections)
    case 'mysql':
      return connectMysql(url, connections)
    case 'sqlite':
      return connectSqlite(url)
  }
}

export function openPgPool(url: string, connections: number): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: connections, idleTimeoutMillis: 0 })
  // A database that is dropped at the end takes idle connections with it.
  pool.on('error', () => undefined)
  return pool
}

export function openMysqlPool(url: string, connections: number): mysql.Pool {
  return mysql.createPool({ uri: url, connectionLimit: connections })
}

/** Durable, as the servers are: on its own this driver would leave WAL commits to the operating system. */
export function openSqlite(path: string): Database.Database {
  const database = new Database(path)
  database.pragma('journal_mode = wal')
  database.pragma('synchronous = full')
  return database
}

function connectPostgres(url: string, connections: number): Connection {
  const pool = openPgPool(url, connections)
  return {
    adapter: fromPg(pool) as Adapter<unknown>,
    sql: async (text) => (await pool.query(text)).rows,
    async transaction(body) {
      const client = await pool.connect()
      try {
        await client.query('begin')
        await body(client, async (text) => (await client.query(text)).rows)
        await client.query('commit')
      } finally {
        client.release()
      }
    },
    close: () => pool.end(),
  }
}

function connectMysql(url: string, connections: number): Connection {
  const pool = openMysqlPool(url, connections)
  const rowsOf = ([rows]: [unknown, unknown]) => (Array.isArray(rows) ? (rows as Rows) : [])
  return {
    adapter: fromMysql2(pool) as Adapter<unknown>,
    sql: async (text) => rowsOf(await pool.query(text)),
    async transaction(body) {
      const connection = await pool.getConnection()
      try {
        await connection.query('start transaction')
        await body(connection, async (text) => rowsOf(await connection.query(text)))
        await connection.query('commit')
      } finally {
        connection.release()
      }
    },
    close: () => pool.end(),
  }
}

function connectSqlite(path: string): Connection {
  const database = openSqlite(path)
  const adapter = fromBetterSqlite3(database)
  const sql = async (text: string): Promise<Rows> => {
    const statement = database.prepare(text)
    if (statement.reader) return statement.all() as Rows
    statement.run()
    return []
  }
  return {
    adapter: { ...adapter, query: (statement) => recorded(() => adapter.query(statement)) } as Adapter<unknown>,
    sql,
    async transaction(body) {
      database.exec('begin immediate')
      await body(database, sql)
      database.exec('commit')
    },
    close: async () => database.close(),
  }
}
