import { Kysely, MysqlDialect, PostgresDialect, type SqliteDatabase, SqliteDialect } from 'kysely'
import { LockError } from '../index.ts'

/** A connection pool, or the one connection of SQLite, to a database by its URL. `destroy()` closes it. */
export async function connect(databaseUrl: string): Promise<Kysely<unknown>> {
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]+):(.*)$/is.exec(databaseUrl) ?? []
  switch (scheme?.toLowerCase()) {
    case 'postgres':
    case 'postgresql':
      return connectPostgres(databaseUrl)
    case 'mysql':
    case 'mariadb':
      return connectMysql(`mysql:${rest}`)
    case 'sqlite':
    case 'file':
      return connectSqlite(toPath(rest!))
    case undefined:
      if (/\.(sqlite3?|db)$/i.test(databaseUrl)) return connectSqlite(databaseUrl)
  }
  throw new LockError(
    'INVALID_ARGUMENT',
    `cannot tell the database from ${scheme === undefined ? 'its URL' : `"${scheme}:"`}: use postgres://, postgresql://, mysql://, mariadb://, sqlite:PATH, file:PATH, or a path that ends in .sqlite, .sqlite3 or .db`,
  )
}

async function connectPostgres(connectionString: string): Promise<Kysely<unknown>> {
  checkUrl(connectionString)
  const { default: pg } = await driver('pg', () => import('pg'))
  const pool = new pg.Pool({ connectionString })
  // An idle connection that breaks is replaced; without a listener it would end the process.
  pool.on('error', () => undefined)
  return new Kysely({ dialect: new PostgresDialect({ pool }) })
}

async function connectMysql(uri: string): Promise<Kysely<unknown>> {
  checkUrl(uri)
  const { default: mysql } = await driver('mysql2', () => import('mysql2'))
  return new Kysely({ dialect: new MysqlDialect({ pool: mysql.createPool({ uri }) }) })
}

/** A driver for SQLite waits in the thread, and rowlock's timers with it; so it is rowlock that waits for a busy file. */
const BUSY_TIMEOUT_MS = 50

async function connectSqlite(path: string): Promise<Kysely<unknown>> {
  // better-sqlite3 may be missing, or built for another version of Node.
  const open = await betterSqlite3().catch(nodeSqlite)
  // Opened when it is needed: what is refused before that shall leave no empty file.
  const database = async () => {
    try {
      return open(path)
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      throw new LockError('DATABASE', `cannot open the SQLite file ${path}: ${reason}`, { cause })
    }
  }
  return new Kysely({ dialect: new SqliteDialect({ database }) })
}

type OpenSqlite = (path: string) => SqliteDatabase

async function betterSqlite3(): Promise<OpenSqlite> {
  const { default: Database } = await import('better-sqlite3')
  new Database(':memory:').close()
  return (path) => new Database(path, { timeout: BUSY_TIMEOUT_MS })
}

interface NodeSqlite {
  exec(sql: string): void
  prepare(sql: string): {
    columns(): unknown[]
    all(...values: unknown[]): unknown[]
    run(...values: unknown[]): { changes: number | bigint; lastInsertRowid: number | bigint }
    iterate(...values: unknown[]): IterableIterator<unknown>
  }
  close(): void
}

async function nodeSqlite(whyNotBetterSqlite3: unknown): Promise<OpenSqlite> {
  const sqlite = await import('node:sqlite' as string).catch(() => undefined)
  if (sqlite === undefined) {
    throw missing('better-sqlite3', whyNotBetterSqlite3, ', or use Node 22.16 or later, which brings node:sqlite')
  }
  return (path) => {
    const database: NodeSqlite = new sqlite.DatabaseSync(path)
    database.exec(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`)
    return likeBetterSqlite3(database)
  }
}

/** What Kysely's SqliteDialect expects: values in an array, and `reader`, without which it would drop the rows of RETURNING. */
function likeBetterSqlite3(database: NodeSqlite): SqliteDatabase {
  return {
    close: () => database.close(),
    prepare(sql) {
      const statement = database.prepare(sql)
      return {
        reader: statement.columns().length > 0,
        all: (values) => statement.all(...values),
        run: (values) => statement.run(...values),
        iterate: (values) => statement.iterate(...values),
      }
    },
  }
}

/** `sqlite:PATH` and `sqlite:///PATH`; what an URL may have besides, SQLite would take for a part of the name. */
function toPath(rest: string): string {
  const path = rest.replace(/^\/\/(?=\/)/, '')
  if (path === '' || path.startsWith('//') || path.includes('?')) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `"${rest}" is no path of a SQLite file: write sqlite:PATH, without host and parameters`,
    )
  }
  return path
}

function checkUrl(url: string): void {
  // Drivers complain about it each in their own way, some with the password in the message.
  if (!URL.canParse(url)) throw new LockError('INVALID_ARGUMENT', 'the database URL is not well-formed')
}

async function driver<Module>(name: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load()
  } catch (cause) {
    if ((cause as { code?: unknown } | null)?.code === 'ERR_MODULE_NOT_FOUND') throw missing(name, cause)
    throw cause
  }
}

function missing(name: string, cause: unknown, alternative = ''): LockError {
  return new LockError('UNSUPPORTED', `this database needs the package ${name}: npm install ${name}${alternative}`, {
    cause,
  })
}
