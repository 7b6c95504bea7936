import { randomBytes } from 'node:crypto'
import { DatabaseError, LockError, LockLostError, LockTimeoutError } from './errors.ts'
import type { Lease } from './lease.ts'
import { checkName, type LockOptions, type LockRequest } from './request.ts'
import { bounded, sleep } from './retry.ts'
import type { Attempt, Hold, Store } from './store/store.ts'
import type { WakeUps } from './wake/wake.ts'

/** A hold that ends with the transaction it was taken in. */
export interface TransactionHold {
  readonly name: string
  /** The fencing token. Publish it only after the commit: a rollback takes it back. */
  readonly token: bigint
}

/** A lease that starts with the commit of the transaction it was taken in. */
export interface PendingLease<Tx> {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  /**
   * Call it after the commit: makes the lease last its whole ttl from now, and renews it. LockLostError if the transaction
   * rolled back (or has not committed yet), or if its ttl, which runs from the call of `lease`, was over before.
   */
  confirm(): Promise<Lease<Tx>>
}

export type TransactionOptions = Pick<LockOptions, 'wait' | 'signal'>
export type PendingLeaseOptions = Pick<LockOptions, 'ttl' | 'wait' | 'signal' | 'renew' | 'maxHold'>

/**
 * Locks taken in a transaction of the caller's: with its commit or not at all. While it is open they exclude every other
 * holder, leases and transactions alike.
 */
export interface TransactionLocks<Tx> {
  /**
   * Holds the lock until `tx` commits or rolls back. Waits for it at most `wait`: LockTimeoutError, after which `tx` stays
   * usable. A deadlock, or a snapshot that is too old, is TRANSACTION_ABORTED: roll back, and retry the transaction.
   */
  acquire(name: string, options?: TransactionOptions): Promise<TransactionHold>
  /** As acquire, but null if the lock is held. Never waits, and leaves `tx` usable. */
  tryAcquire(name: string): Promise<TransactionHold | null>
  /** Takes a lease that nobody sees before the commit, and that outlives it. Waits as acquire does. */
  lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>>
}

export interface TransactionContext<Tx> {
  readonly store: Store<Tx>
  readonly wakeUps: WakeUps
  readonly holder: string
  readonly closing: AbortSignal
  request(name: string, options: LockOptions | undefined): LockRequest
  /** A lease on a hold whose transaction has committed. */
  confirm(hold: Hold, request: LockRequest): Promise<Lease<Tx>>
}

/**
 * How long one statement may wait in the database for another transaction. Longer than PostgreSQL's deadlock_timeout, or
 * no deadlock would be found; an abort is noticed after that time at the latest.
 */
const LONGEST_DATABASE_WAIT_MS = 2500
/** How long to wait for another connection for a first look: the transaction may have the pool's last one. */
const FIRST_LOOK_MS = 500
/** How often a transaction looks again when it cannot be woken. */
const LOOK_AGAIN_MS = 50

export class Transaction<Tx> implements TransactionLocks<Tx> {
  readonly #context: TransactionContext<Tx>
  readonly #tx: Tx

  constructor(context: TransactionContext<Tx>, tx: Tx) {
    this.#context = context
    this.#tx = tx
  }

  async acquire(name: string, options?: TransactionOptions): Promise<TransactionHold> {
    const { token } = await this.#acquire(this.#context.request(name, options), null)
    return { name, token }
  }

  async tryAcquire(name: string): Promise<TransactionHold | null> {
    const attempt = this.#attempt(checkName(name), null)
    const result = await this.#context.store.acquireIn(this.#tx, attempt)
    return result.granted ? { name, token: result.token } : null
  }

  async lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>> {
    const request = this.#context.request(name, options)
    const hold = await this.#acquire(request, Math.min(request.ttlMs, request.maxHoldMs))
    return { ...hold, confirm: () => this.#context.confirm(hold, request) }
  }

  async #acquire(request: LockRequest, ttlMs: number | null): Promise<Hold> {
    const { store, wakeUps, closing } = this.#context
    const { name } = request
    const signal = request.signal === undefined ? closing : AbortSignal.any([request.signal, closing])
    const started = performance.now()
    const deadline = started + request.waitMs
    const attempt = this.#attempt(name, ttlMs)
    const left = () => Math.max(0, deadline - performance.now())
    // Where there is one connection, and this transaction has it, nobody can be asked or woken.
    const waiter = store.single ? undefined : wakeUps.wait(name)
    const pause = (ms: number) => (waiter ? waiter.next(ms, signal) : sleep(Math.min(ms, LOOK_AGAIN_MS), signal))
    try {
      // Before the first statement in the transaction: at REPEATABLE READ that one fixes what all later ones see.
      if (request.waitMs > 0 && !(await this.#looksFree(name))) await pause(left())
      for (;;) {
        signal.throwIfAborted()
        let result = await store.acquireIn(this.#tx, attempt)
        if (!result.granted && result.holder === null && left() > 0) {
          const waitMs = Math.min(left(), LONGEST_DATABASE_WAIT_MS)
          result = (await store.acquireBehind?.(this.#tx, attempt, waitMs)) ?? result
        }
        if (result.granted) return { name, owner: attempt.owner, token: result.token }
        if (left() === 0) {
          throw new LockTimeoutError(name, performance.now() - started, result.holder ?? 'a transaction')
        }
        // A wake-up may be late or fail, when this transaction has the pool's last connection.
        await pause(Math.min(left(), LOOK_AGAIN_MS))
      }
    } finally {
      waiter?.stop()
    }
  }

  #attempt(name: string, ttlMs: number | null): Attempt {
    return { name, owner: randomBytes(16).toString('hex'), ttlMs, holder: this.#context.holder, session: null }
  }

  async #looksFree(name: string): Promise<boolean> {
    if (this.#context.store.single) return true
    try {
      return (await bounded(this.#context.store.free([name]), FIRST_LOOK_MS)).has(name)
    } catch (error) {
      // No connection but the transaction's own: then that one has to look.
      if (error instanceof DatabaseError && error.failure === 'connection') return true
      throw error
    }
  }
}

export function confirmationFailed(name: string): LockLostError {
  return new LockLostError(
    name,
    'its transaction rolled back, has not committed yet, or took longer than the ttl; or somebody force-released it',
  )
}

/**
 * ORMs that keep their transaction in AsyncLocalStorage give a function. The transactions of Knex and postgres.js can be
 * called, too, but take an argument: a table's name, a template.
 */
export function currentTransaction<Tx>(tx: Tx | (() => Tx)): Tx {
  if (typeof tx !== 'function' || tx.length > 0) return tx as Tx
  const current = (tx as () => Tx)()
  if (current == null)
    throw new LockError('INVALID_ARGUMENT', 'the function that was passed for tx knows of no transaction')
  return current
}
