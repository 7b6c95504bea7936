import { DatabaseError, LockError } from '../base/errors.ts'
import { asAdapter, type Result, type SqlAdapter, type Statement } from './adapter.ts'

interface SqliteStatement {
  all(...values: never[]): unknown[]
  run(...values: never[]): unknown
  /** better-sqlite3 refuses `all` where this is false. */
  readonly reader?: boolean
  /** Of better-sqlite3, whose handle may be set up for bigints. */
  safeIntegers?(enabled: boolean): unknown
  /** Of node:sqlite, whose handle may be set up for bigints, and for rows that are arrays. */
  setReadBigInts?(enabled: boolean): unknown
  setReturnArrays?(enabled: boolean): unknown
}

/** What better-sqlite3 and node:sqlite have in common; the handle is also what guards take, once a transaction is open on it. */
export interface SqliteHandle {
  exec(sql: string): unknown
  prepare(sql: string): SqliteStatement
}

/** A setting of the caller's connection. */
type Pragma = 'busy_timeout' | 'synchronous'

/**
 * Rowlock waits for the file itself, without blocking the event loop: a driver's busy_timeout sleeps in the thread. So for
 * the length of one statement it is set to this many milliseconds.
 */
const BUSY_TIMEOUT_MS = 0
/** `synchronous`: commits to a write-ahead log do not wait for the disk. Without such a log a power failure could destroy the file. */
const NORMAL = 1

/** Rows as objects, with numbers in them, whatever the handle is set up for. */
function inOwnShape(statement: SqliteStatement): SqliteStatement {
  // better-sqlite3 refuses it for what answers no rows.
  if (statement.reader !== false) statement.safeIntegers?.(false)
  statement.setReadBigInts?.(false)
  statement.setReturnArrays?.(false)
  return statement
}

/** The adapter of a synchronous driver, which has one connection: the handle. */
export function synchronousSqlite<Handle extends SqliteHandle>(
  database: Handle,
  inTransaction: (database: Handle) => boolean,
): SqlAdapter<Handle> {
  // Preparing takes several times as long as executing. The texts that have names are few.
  const prepared = new Map<string, SqliteStatement>()
  const prepare = ({ name, text, callers }: Statement): SqliteStatement => {
    if (callers) return database.prepare(text)
    if (name === undefined) return inOwnShape(database.prepare(text))
    let statement = prepared.get(name)
    if (statement === undefined) {
      statement = inOwnShape(database.prepare(text))
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
  const ask = (text: string): unknown => Object.values(prepare({ name: text, text, values: [] }).all()[0] as object)[0]
  const underPragma = <T>(pragma: Pragma, wanted: number, use: () => T): T => {
    const given = Number(ask(`pragma ${pragma}`))
    if (given <= wanted) return use()
    database.exec(`pragma ${pragma} = ${wanted}`)
    try {
      return use()
    } finally {
      database.exec(`pragma ${pragma} = ${given}`)
    }
  }
  const impatiently = (statement: Statement): Result =>
    underPragma('busy_timeout', BUSY_TIMEOUT_MS, () =>
      statement.durable === false && ask('pragma journal_mode') === 'wal'
        ? underPragma('synchronous', NORMAL, () => run(statement))
        : run(statement),
    )

  return asAdapter({
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
          'this needs an open transaction: outside of one it would protect nothing. Say BEGIN IMMEDIATE first',
        )
      }
      return run(statement)
    },
    async reserve(use) {
      return use({ query: async (statement) => impatiently(statement) })
    },
  })
}
