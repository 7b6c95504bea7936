export type { MemoryAdapter, SqlAdapter } from './adapters/adapter.ts'
export type { Duration } from './duration.ts'
export {
  DatabaseError,
  isTransactionAborted,
  LockError,
  type LockErrorCode,
  LockLostError,
  LockTimeoutError,
  QueueFullError,
} from './errors.ts'
export type { LockEvent, LockListener } from './events.ts'
export type { Lease, LeaseJson } from './lease.ts'
export { type Adapter, createLocks, type Locks, type RunOutcome } from './locks.ts'
export type { InstanceOptions, LockOptions } from './request.ts'
export type { GuardedQuery } from './store/statement.ts'
export type { LockState as LockInfo } from './store/store.ts'
export type {
  PendingLease,
  PendingLeaseOptions,
  TransactionHold,
  TransactionLocks,
  TransactionOptions,
  WithinOptions,
} from './transaction.ts'
