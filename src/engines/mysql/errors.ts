import { isConnectionFailure, isPoolTimeout } from '../../adapters/driver-errors.ts'
import type { LockError } from '../../base/errors.ts'
import {
  cutShort,
  databaseError,
  missingRight,
  noRoom,
  notMigrated,
  readOnly,
  transactionAborted,
} from '../failures.ts'

/** What ends a wait whose statement has a limit of its own: MySQL's, and MariaDB's. */
export const WAIT_LIMITED = 3024
export const WAIT_LIMITED_MARIADB = 1969
/** Of a slot, by an attempt that was sent twice at once. */
const DUPLICATE = 1062
export const DEADLOCK = 1213
export const LOCK_WAIT_TIMEOUT = 1205
export const NO_WAIT_REFUSED = 3572
export const CHANGED_SINCE_SNAPSHOT = 1020
/** Multi-primary Group Replication: another member was faster. */
export const ROLLED_BACK_BY_CERTIFICATION = 3101
export const CONFLICTS = [
  DUPLICATE,
  ROLLED_BACK_BY_CERTIFICATION,
  DEADLOCK,
  LOCK_WAIT_TIMEOUT,
  NO_WAIT_REFUSED,
  CHANGED_SINCE_SNAPSHOT,
]
export const NO_SUCH_TABLE = 1146
export const NO_SUCH_COLUMN = 1054
/**
 * Shutting down, killed, node not ready (Galera), server gone or lost, offline while failing over, or an error during COMMIT,
 * which may have taken effect.
 */
export const NO_SERVER = [1053, 1317, 1927, 1047, 2006, 2013, 4031, 1180, 3032, 3100]
/** The driver `mariadb` numbers its own errors, too: connection or pool closed, cut off, or not there in time. */
export const NO_CONNECTION = [45001, 45004, 45009, 45012, 45013, 45019, 45026, 45042, 45061]
/** The server (1290, 1836), the session or the transaction (1792). */
export const READ_ONLY = [1290, 1836, 1792]
/**
 * Too many connections of all users (1040), of this one (1203), or this hour (1226), no thread for one (1135), no memory
 * (1037, 1038, 1041), no place on the disk (1021, 1114) or for locks (1206), none left in the pool of the driver `mariadb`.
 */
export const NO_ROOM = [1040, 1203, 1226, 1135, 1037, 1038, 1041, 1021, 1114, 1206, 45028]
/** max_statement_time of MariaDB, max_execution_time of MySQL. */
export const STATEMENT_TIMEOUT = [1969, 3024]
/** On the database, on the table, on a column. */
export const NO_RIGHT = [1044, 1142, 1143]

export function errnoOf(error: unknown): unknown {
  return (error as { errno?: unknown } | null | undefined)?.errno
}

/** Another node was faster. Nothing but the text tells it from other errors during COMMIT. */
export function isLostRace(error: unknown): boolean {
  return errnoOf(error) === 1180 && /error 149\b/.test((error as Error).message)
}

export function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const errno = errnoOf(error)
  if (isPoolTimeout(error)) return noRoom(error)
  if (typeof errno !== 'number' || errno < 0) {
    return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  }
  if (errno === NO_SUCH_TABLE || errno === NO_SUCH_COLUMN) return notMigrated(table, error)
  if (CONFLICTS.includes(errno) || isLostRace(error))
    return inTransaction ? transactionAborted(error) : databaseError('conflict', error)
  if (READ_ONLY.includes(errno)) return readOnly(error)
  if (NO_ROOM.includes(errno)) return noRoom(error)
  if (NO_RIGHT.includes(errno)) return missingRight(table, error)
  if (STATEMENT_TIMEOUT.includes(errno) && !inTransaction) return cutShort(error)
  return databaseError([...NO_SERVER, ...NO_CONNECTION].includes(errno) ? 'connection' : 'other', error)
}
