import { isPoolTimeout } from '../../adapters/driver-errors.ts'
import { DatabaseError, isError, type LockError } from '../../base/errors.ts'
import { databaseError, noRoom, notMigrated, readOnly, transactionAborted } from '../failures.ts'

const SQLITE_BUSY = 5
const SQLITE_LOCKED = 6
const SQLITE_READONLY = 8
const SQLITE_FULL = 13

export function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  if (!isError(error)) return databaseError('other', error)
  // better-sqlite3 names the result code, node:sqlite gives its number, extended by a high byte.
  const { code, errcode } = error as { code?: unknown; errcode?: unknown }
  const base = typeof errcode === 'number' ? errcode & 0xff : undefined
  const busy = base === SQLITE_BUSY || base === SQLITE_LOCKED || /^SQLITE_(BUSY|LOCKED)/.test(String(code))
  if (busy) return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  // better-sqlite3 refuses to write meanwhile, and says so by a TypeError without a code; the statement was not begun.
  if (/\bdatabase connection is busy executing a query\b/.test(error.message)) {
    return new DatabaseError(
      'conflict',
      'a statement is in progress on this SQLite handle, as of iterate(); rowlock waits for its end. Read its rows with all(), or give rowlock a handle of its own',
      { cause: error },
    )
  }
  // SQLite has no result code of its own for a missing table; Knex puts the statement before the message.
  if (/\bno such (table|column): /.test(error.message)) return notMigrated(table, error)
  if (isPoolTimeout(error) || base === SQLITE_FULL || code === 'SQLITE_FULL') return noRoom(error)
  if (base === SQLITE_READONLY || /^SQLITE_READONLY/.test(String(code))) return readOnly(error)
  return databaseError('other', error)
}
