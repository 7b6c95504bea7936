import { transactionLeftOpen } from '../../adapters/adapter.ts'
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

/** Of a standby, of a server while it fails over, of a session or a transaction that was made so. */
const READ_ONLY = '25006'
/** Met outside of the caller's transactions: on a connection that came back into the pool with one that had failed. */
const IN_FAILED_TRANSACTION = '25P02'
const INSUFFICIENT_PRIVILEGE = '42501'
/** The class of too_many_connections, disk_full, out_of_memory and configuration_limit_exceeded. */
const INSUFFICIENT_RESOURCES = '53'
const CANNOT_CONNECT_NOW = '57P03'
const QUERY_CANCELED = '57014'
/** Table, schema, column or function missing. */
const NOT_MIGRATED = ['42P01', '3F000', '42703', '42883']
/** Failed before, serialization failure, deadlock, lock timeout; and ended by the server for its idleness or its length. */
const ENDED_TRANSACTION = ['25P02', '40001', '40P01', '55P03', '25P03', '25P04']

export function sqlState(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code) ? code : undefined
}

export function explain(error: unknown, inTransaction: boolean, table: string): LockError {
  const code = sqlState(error)
  if (isPoolTimeout(error)) return noRoom(error)
  if (code === undefined) return databaseError(isConnectionFailure(error) ? 'connection' : 'other', error)
  if (NOT_MIGRATED.includes(code)) return notMigrated(table, error)
  if (inTransaction && (code === QUERY_CANCELED || ENDED_TRANSACTION.includes(code))) return transactionAborted(error)
  if (['40001', '40P01', '55P03'].includes(code)) return databaseError('conflict', error)
  if (code === IN_FAILED_TRANSACTION) return transactionLeftOpen(error)
  if (code === READ_ONLY) return readOnly(error)
  if (code === INSUFFICIENT_PRIVILEGE) return missingRight(table, error)
  if (code.startsWith(INSUFFICIENT_RESOURCES) || code === CANNOT_CONNECT_NOW) return noRoom(error)
  if (code === QUERY_CANCELED) return cutShort(error)
  if (code.startsWith('08') || code.startsWith('57P')) return databaseError('connection', error)
  return databaseError('other', error)
}
