import { type Call, TIME_OUT } from './call.ts'
import { DatabaseError, LockError, LockLostError, LockTimeoutError } from './errors.ts'
import type { Lease } from './lease.ts'
import type { Handed, Place, Queue } from './queue.ts'
import { randomHex } from './random.ts'
import { checkName, type LockOptions, type LockRequest } from './request.ts'
import { bounded, untilUnlocked } from './retry.ts'
import type { Attempt, AttemptResult, Hold, Store } from './store/store.ts'

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
  readonly queue: Queue
  readonly holder: string
  /** Runs what waits, so that it ends with `signal` and with the instance. */
  run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T>
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
/** How often a transaction looks again that cannot be handed the lock. */
const LOOK_AGAIN_MS = 50
/** How long a statement of others has a row locked, commit included, on a server that is not in trouble. */
const STATEMENT_MS = 20
/** A hold that is handed to a transaction is its own a statement later; if the transaction rolls back, the hold ends after that time. */
const HANDED_TTL_MS = 1000

export class Transaction<Tx> implements TransactionLocks<Tx> {
  readonly #context: TransactionContext<Tx>
  readonly #tx: Tx

  constructor(context: TransactionContext<Tx>, tx: Tx) {
    this.#context = context
    this.#tx = tx
  }

  async acquire(name: string, options?: TransactionOptions): Promise<TransactionHold> {
    const request = this.#context.request(name, options)
    const { token } = await this.#context.run(request.signal, (call) => this.#acquire(call, request, null))
    return { name, token }
  }

  async tryAcquire(name: string): Promise<TransactionHold | null> {
    const attempt = this.#attempt(checkName(name), null)
    const result = await this.#context.store.acquireIn(this.#tx, attempt)
    if (result.granted) return { name, token: result.token }
    if (result.queued && !this.#context.store.single) this.#context.queue.settleLater(name)
    return null
  }

  async lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>> {
    const request = this.#context.request(name, options)
    const ttlMs = Math.min(request.ttlMs, request.maxHoldMs)
    const hold = await this.#context.run(request.signal, (call) => this.#acquire(call, request, ttlMs))
    return { ...hold, confirm: () => this.#context.confirm(hold, request) }
  }

  /**
   * Behind a lease, or behind others who wait for one, it lines up like everybody else, on another connection, and turns the
   * hold that it is handed into one of this transaction. Behind another transaction it waits in the database.
   */
  async #acquire(call: Call, request: LockRequest, ttlMs: number | null): Promise<Hold> {
    const { store, queue } = this.#context
    const { name } = request
    const started = performance.now()
    const deadline = started + request.waitMs
    const left = () => Math.max(0, deadline - performance.now())
    const lineUp = () => queue.join(name, { ttlMs: HANDED_TTL_MS, session: null }, left(), false)
    const attempt = this.#attempt(name, ttlMs)
    let place: Place | undefined
    /** Whose turn came, until it is known whether this transaction has the hold. */
    let served: Place | undefined
    try {
      // Before the first statement in the transaction: at REPEATABLE READ that one fixes what all later ones see.
      if (request.waitMs > 0 && !(await this.#looksFree(name))) place = lineUp()
      for (;;) {
        const handed = place && (await this.#turn(call, place, left()))
        if (handed === TIME_OUT && place?.queued && left() > 0) continue
        if (handed !== TIME_OUT) {
          served = place
          place = undefined
        }
        const owner = handed === TIME_OUT ? attempt.owner : (handed?.owner ?? attempt.owner)
        const asked = { ...attempt, owner }
        let result!: AttemptResult
        // By a statement, maybe, with which others line up: on MySQL, who waits for that in the database has to roll back.
        await untilUnlocked(
          async () => {
            result = await store.acquireIn(this.#tx, asked)
            return !isRowLocked(result)
          },
          Math.min(left(), STATEMENT_MS),
        )
        // Our own place would be before us, so there must be none: neither now nor by a statement that is under way.
        if (isRowLocked(result) && left() > 0 && !place?.told) {
          if (place !== undefined) queue.leave(place)
          place = undefined
          const waitMs = Math.min(left(), LONGEST_DATABASE_WAIT_MS)
          result = (await store.acquireBehind?.(this.#tx, asked, waitMs)) ?? result
        }
        served = undefined
        // A lease goes on under that owner: then `confirm` says when it is over.
        if (handed !== undefined && handed !== TIME_OUT && (ttlMs === null || !result.granted))
          queue.ended(handed.owner)
        if (result.granted) return { name, owner, token: result.token }
        if (left() === 0) {
          throw new LockTimeoutError(name, performance.now() - started, result.holder ?? 'a transaction')
        }
        // Where there is one connection, and this transaction has it, there is nobody to line up with.
        if (!store.single && (result.holder !== null || result.queued)) place ??= lineUp()
        else await call.race(undefined, Math.min(left(), LOOK_AGAIN_MS))
      }
    } finally {
      // What this transaction, which has failed, was handed goes to the next.
      const mine = served ?? place
      if (mine !== undefined) queue.leave(mine)
    }
  }

  /**
   * Waits for the hand-off. But the place may not be in the queue yet: if this transaction has the pool's last connection,
   * it never gets there, and then the transaction has to look.
   */
  async #turn(call: Call, place: Place, leftMs: number): Promise<Handed | undefined | typeof TIME_OUT> {
    const answer = await call.race(place.served, place.queued ? leftMs : Math.min(leftMs, LOOK_AGAIN_MS))
    return answer === TIME_OUT && place.queued && leftMs === 0 ? this.#context.queue.giveUp(place) : answer
  }

  #attempt(name: string, ttlMs: number | null): Attempt {
    return { name, owner: randomHex(16), ttlMs, holder: this.#context.holder, session: null }
  }

  async #looksFree(name: string): Promise<boolean> {
    if (this.#context.store.single) return true
    try {
      const [sight] = await bounded(this.#context.store.look([name]), FIRST_LOOK_MS)
      return sight === undefined || (sight.holder === null && !sight.ready)
    } catch (error) {
      // No connection but the transaction's own: then that one has to look.
      if (error instanceof DatabaseError && error.failure !== 'other') return true
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

/** Nobody can be seen to hold or await it, and yet it could not be had. */
function isRowLocked(result: AttemptResult): boolean {
  return !result.granted && result.holder === null && !result.queued
}
