import { DatabaseError, LockError } from '../errors.ts'
import type { Result, SqlAdapter, Statement } from './adapter.ts'

interface SqliteStatement {
  all(...values: never[]): unknown[]
  run(...values: never[]): unknown
  /** better-sqlite3 refuses `all` where this is false. */
  readonly reader?: boolean
}

/** What better-sqlite3 and node:sqlite have in common; the handle is also what guards take, once a transaction is open on it. */
export interface SqliteHandle {
  exec(sql: string): unknown
  prepare(sql: string): SqliteStatement
}

/**
 * Rowlock waits for the file itself, without blocking the event loop: a driver's busy_timeout sleeps in the thread. So for
 * the length of one statement it is set to this many milliseconds.
 */
const BUSY_TIMEOUT_MS = 0
const ASK_TIMEOUT: Statement = { name: 'busy_timeout', text: 'pragma busy_timeout', values: [] }

/** The adapter of a synchronous driver, which has one connection: the handle. */
export function synchronousSqlite<Handle extends SqliteHandle>(
  database: Handle,
  inTransaction: (database: Handle) => boolean,
): SqlAdapter<Handle> {
  // Preparing takes several times as long as executing. The texts that have names are few.
  const prepared = new Map<string, SqliteStatement>()
  const prepare = ({ name, text }: Statement): SqliteStatement => {
    if (name === undefined) return database.prepare(text)
    let statement = prepared.get(name)
    if (statement === undefined) {
      statement = database.prepare(text)
      prepared.set(name, statement)
    }
    return statement
  }
  const run = (query: Statement): Result => {
    const { values } = query
    const statement = prepare(query)
    if (statement.reader === false) {
      statement.run(...(values as never[]))
      return { rows: [] }
    }
    return { rows: statement.all(...(values as never[])) as Record<string, unknown>[] }
  }
  const impatiently = (statement: Statement): Result => {
    const [{ timeout }] = prepare(ASK_TIMEOUT).all() as [{ timeout: number | bigint }]
    if (Number(timeout) === BUSY_TIMEOUT_MS) return run(statement)
    database.exec(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`)
    try {
      return run(statement)
    } finally {
      database.exec(`pragma busy_timeout = ${timeout}`)
    }
  }

  return {
    engine: 'sqlite',
    synchronous: true,
    single: true,
    async query(statement) {
      // It would become part of the caller's transaction, and be rolled back with it.
      if (inTransaction(database)) {
        throw new DatabaseError(
          'conflict',
          'a transaction is open on this SQLite handle; rowlock waits for its end. Do not await a lock inside it, or give rowlock a handle of its own',
          { cause: undefined },
        )
      }
      return impatiently(statement)
    },
    queryIn(tx, statement) {
      if (tx !== database) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the SQLite handle that createLocks was given, with a transaction open on it',
        )
      }
      if (!inTransaction(database)) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'guard needs an open transaction: outside of one it would protect nothing. Say BEGIN IMMEDIATE first',
        )
      }
      return run(statement)
    },
    async reserve(use) {
      return use({ query: async (statement) => impatiently(statement) })
    },
  }
}
