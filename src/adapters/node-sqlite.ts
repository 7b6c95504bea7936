import { LockError } from '../base/errors.ts'
import type { SqlAdapter } from './adapter.ts'
import { type SqliteHandle, synchronousSqlite } from './sqlite.ts'

/** A DatabaseSync of node:sqlite, of Node 22.16, 24 or later. */
export interface NodeSqliteDatabase extends SqliteHandle {
  readonly isTransaction: boolean
}

/** SQLite through `node:sqlite`. Guards take the database itself while a transaction is open on it. */
export function fromNodeSqlite(database: NodeSqliteDatabase): SqlAdapter<NodeSqliteDatabase> {
  if (typeof database?.prepare !== 'function' || typeof database.isTransaction !== 'boolean') {
    throw new LockError(
      'INVALID_ARGUMENT',
      'fromNodeSqlite takes an open DatabaseSync of node:sqlite, of Node 22.16 or later',
    )
  }
  return synchronousSqlite(database, ({ isTransaction }) => isTransaction)
}
