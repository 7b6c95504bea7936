import { LockError } from '../base/errors.ts'
import type { SqlAdapter } from './adapter.ts'
import { type SqliteHandle, synchronousSqlite } from './sqlite.ts'

/** A Database of better-sqlite3. */
export interface BetterSqlite3Database extends SqliteHandle {
  readonly inTransaction: boolean
}

/** SQLite through `better-sqlite3`. Guards take the database itself while a transaction is open on it. */
export function fromBetterSqlite3(database: BetterSqlite3Database): SqlAdapter<BetterSqlite3Database> {
  if (typeof database?.prepare !== 'function' || typeof database.inTransaction !== 'boolean') {
    throw new LockError('INVALID_ARGUMENT', 'fromBetterSqlite3 takes a Database of better-sqlite3')
  }
  return synchronousSqlite(database, ({ inTransaction }) => inTransaction)
}
