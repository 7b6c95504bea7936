export type { LockEvent, LockListener } from './api/events.ts'
export type { GuardedQuery, Lease, LeaseJson } from './api/lease.ts'
export { type Adapter, createLocks, type LockInfo, type Locks, type RunOutcome } from './api/locks.ts'
export type { InstanceOptions, LockOptions } from './api/options.ts'
export type {
  PendingLease,
  PendingLeaseOptions,
  TransactionHold,
  TransactionLocks,
  TransactionOptions,
  WithinOptions,
} from './api/transaction.ts'
export type { Duration } from './base/duration.ts'
export {
  DatabaseError,
  isTransactionAborted,
  LockError,
  type LockErrorCode,
  LockLostError,
  LockTimeoutError,
  QueueFullError,
} from './base/errors.ts'
