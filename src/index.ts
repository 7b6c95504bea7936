export type { MemoryAdapter, SqlAdapter } from './adapters/adapter.ts'
export type { Election, ElectionOptions, Leader, Term } from './api/election.ts'
export type { LockEvent, LockListener } from './api/events.ts'
export type { HolderInfo, LockInfo } from './api/info.ts'
export type { CronOptions, EveryOptions, Job, JobOptions, JobRun } from './api/jobs.ts'
export type { GuardedQuery, Lease, LeaseJson } from './api/lease.ts'
export { type Adapter, createLocks, type ForceOptions, type Locks } from './api/locks.ts'
export type { OnceOptions, OnceOutcome } from './api/once.ts'
export type { HeldLease, InstanceOptions, LockOptions, Mode, RunOptions, RunOutcome } from './api/options.ts'
export type { PermitOptions, Semaphore, SemaphoreOptions } from './api/semaphore.ts'
export type { Leases } from './api/several.ts'
export type {
  PendingLease,
  PendingLeaseOptions,
  TransactionHold,
  TransactionLocks,
  TransactionOnceOptions,
  TransactionOptions,
  WithinOptions,
} from './api/transaction.ts'
export type { Duration } from './base/duration.ts'
export {
  DatabaseError,
  DeadlockError,
  isTransactionAborted,
  LockError,
  type LockErrorCode,
  LockLostError,
  LockTimeoutError,
  QueueFullError,
  ResignedError,
  UnstorableResultError,
} from './base/errors.ts'
export type { QueueState as QueueInfo } from './protocol/store.ts'
