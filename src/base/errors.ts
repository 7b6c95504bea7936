import { types } from 'node:util'
import { brandClass } from './brand.ts'

/**
 * Stable codes of {@link LockError}:
 *
 * - `LOCK_TIMEOUT`: the lock stayed held for the whole `wait`. Try again later.
 * - `QUEUE_FULL`: too many callers wait for the lock already (`maxWaiters`). Shed load, or try again later.
 * - `DEADLOCK`: the caller holds what it would wait for, so the wait would never end. Change the order of the calls.
 * - `LOCK_LOST`: the lease is no longer ours. Stop, roll back, start over with a new lease.
 * - `RESIGNED`: the reason of a term's signal: its leader resigns, or is asked to. Nothing is lost.
 * - `INVALID_ARGUMENT`: the call itself is wrong; nothing was changed.
 * - `NOT_MIGRATED`: the tables are missing. The message says which command makes them.
 * - `TRANSACTION_ABORTED`: the database ended the caller's transaction. Roll back and retry all of it.
 * - `UNSUPPORTED`: this engine, or what stands before it, cannot do that.
 * - `DATABASE`: the database or the way to it failed; `cause` is the driver's error. Not a statement about the lock.
 */
export type LockErrorCode =
  | 'LOCK_TIMEOUT'
  | 'QUEUE_FULL'
  | 'DEADLOCK'
  | 'LOCK_LOST'
  | 'RESIGNED'
  | 'INVALID_ARGUMENT'
  | 'NOT_MIGRATED'
  | 'TRANSACTION_ABORTED'
  | 'UNSUPPORTED'
  | 'DATABASE'

/** Every error of rowlock's own. Tell errors apart by `code`; `cause` keeps what led to it. */
export class LockError extends Error {
  static {
    brandClass(LockError, 'LockError')
  }

  override readonly name: string = 'LockError'
  readonly code: LockErrorCode

  constructor(code: LockErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** The lock was not free within `wait` milliseconds. */
export class LockTimeoutError extends LockError {
  static {
    brandClass(LockTimeoutError, 'LockTimeoutError')
  }

  override readonly name = 'LockTimeoutError'
  readonly lock: string

  constructor(lock: string, waitedMs: number, holder?: string) {
    const by = holder === undefined ? '' : `; it is held by ${holder}`
    super('LOCK_TIMEOUT', `lock ${JSON.stringify(lock)} was not free within ${Math.round(waitedMs)} ms${by}`)
    this.lock = lock
  }
}

/** So many callers wait for the lock already that no more may join them. Nothing was changed. */
export class QueueFullError extends LockError {
  static {
    brandClass(QueueFullError, 'QueueFullError')
  }

  override readonly name = 'QueueFullError'
  readonly lock: string

  constructor(lock: string, maxWaiters: number) {
    super(
      'QUEUE_FULL',
      `${maxWaiters} callers wait for the lock ${JSON.stringify(lock)} already (maxWaiters): try again later, or shed the load`,
    )
    this.lock = lock
  }
}

/**
 * The wait for the lock would never end: the caller itself keeps it from being free, or is the youngest of those who wait for
 * each other in a circle. It does not wait any more, and nothing else was changed. Release what you hold before you try again.
 */
export class DeadlockError extends LockError {
  static {
    brandClass(DeadlockError, 'DeadlockError')
  }

  override readonly name = 'DeadlockError'
  readonly lock: string
  /** Of those who wait for each other, the caller first: `holder: name -> name`, what each holds and what it waits for. */
  readonly circle: readonly string[]

  constructor(lock: string, reason: string, circle: readonly string[] = []) {
    super('DEADLOCK', `the wait for the lock ${JSON.stringify(lock)} would never end: ${reason}`)
    this.lock = lock
    this.circle = circle
  }
}

/** A lease that was ours is over: it ran out, was taken over, force-released or released. */
export class LockLostError extends LockError {
  static {
    brandClass(LockLostError, 'LockLostError')
  }

  override readonly name = 'LockLostError'
  readonly lock: string
  /** What the body of `run` resolved with, when it finished although its lease had been lost. */
  readonly result: unknown

  constructor(lock: string, reason: string, options?: { cause?: unknown; result?: unknown }) {
    super('LOCK_LOST', `the lease on ${JSON.stringify(lock)} is lost: ${reason}`, options)
    this.lock = lock
    this.result = options?.result
  }
}

/** Why the signal of a leader's term aborts that does not lose its lease: it resigns by itself, or somebody has asked it to. */
export class ResignedError extends LockError {
  static {
    brandClass(ResignedError, 'ResignedError')
  }

  override readonly name = 'ResignedError'
  readonly lock: string
  /** By `requestResign`, in whichever process: it leads until its body has ended, or calls `term.resign()`. */
  readonly requested: boolean

  constructor(lock: string, requested: boolean) {
    super('RESIGNED', `the leader of ${JSON.stringify(lock)} ${requested ? 'was asked to resign' : 'has resigned'}`)
    this.lock = lock
    this.requested = requested
  }
}

/** What a function of `once` gave cannot be kept for those who come later. It has run, and is not marked as done. */
export class UnstorableResultError extends LockError {
  static {
    brandClass(UnstorableResultError, 'UnstorableResultError')
  }

  override readonly name = 'UnstorableResultError'
  readonly key: string
  /** What it gave. */
  readonly result: unknown

  constructor(key: string, cause: LockError, result: unknown) {
    super(
      'INVALID_ARGUMENT',
      `${cause.message}. The function has run, and ${JSON.stringify(key)} is not marked as done`,
      {
        cause,
      },
    )
    this.key = key
    this.result = result
  }
}

/**
 * The database, or the way to it, failed. `failure` says what may be done about it:
 *
 * - `conflict`: the statement had no effect and may simply be repeated (serialization failure, deadlock, busy file).
 * - `unavailable`: nothing took effect, and the same may succeed a while later: a server that takes no writes while it fails
 *   over, one that is full for the moment, a pool that says that it has no free connection.
 * - `connection`: nobody knows whether the statement took effect. Only idempotent statements may be repeated.
 * - `other`: repeating it will not help.
 */
export class DatabaseError extends LockError {
  static {
    brandClass(DatabaseError, 'DatabaseError')
  }

  override readonly name = 'DatabaseError'
  readonly failure: 'conflict' | 'unavailable' | 'connection' | 'other'

  constructor(failure: DatabaseError['failure'], message: string, options: { cause?: unknown }) {
    super('DATABASE', message, options)
    this.failure = failure
  }
}

/** Each of these ends a transaction that may succeed when it is retried as a whole. */
const ABORTED_SQLSTATES = ['40001', '40P01']
const ABORTED_ERRNOS = [1213, 1205, 1020, 3101]
/** What Galera and Group Replication say at COMMIT when another node was faster. */
const LOST_RACE = { errno: 1180, message: /error 149\b/ }

/**
 * Whether `error`, or one of its causes, says that the database gave up a transaction which may succeed when all of it is
 * retried: serialization failures, deadlocks, lock timeouts, a busy SQLite file.
 */
export function isTransactionAborted(error: unknown): boolean {
  for (let each = error; isError(each); each = each.cause) {
    if (each instanceof LockLostError) return false
    if (each instanceof LockError && each.code === 'TRANSACTION_ABORTED') return true
    const { code, errno, errcode } = each as { code?: unknown; errno?: unknown; errcode?: unknown }
    if (typeof code === 'string' && (ABORTED_SQLSTATES.includes(code) || /^SQLITE_(BUSY|LOCKED)/.test(code)))
      return true
    if (typeof errno === 'number' && ABORTED_ERRNOS.includes(errno)) return true
    if (errno === LOST_RACE.errno && LOST_RACE.message.test(each.message)) return true
    if (code === 'ERR_SQLITE_ERROR' && typeof errcode === 'number' && [5, 6].includes(errcode & 0xff)) return true
  }
  return false
}

/** Jest gives the modules that it loads an `Error` of their own; those of Node, such as node:net and node:sqlite, throw another. */
export function isError(value: unknown): value is Error {
  return value instanceof Error || types.isNativeError(value)
}
