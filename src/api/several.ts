import type { Duration } from '../base/duration.ts'
import { LockLostError } from '../base/errors.ts'
import { LazySignal } from './lazy-signal.ts'
import type { Lease, LeaseHandle } from './lease.ts'
import { currentTransaction } from './options.ts'

/**
 * Leases that were acquired together, all or none of them, and end together: the loss of one is the loss of all.
 */
export interface Leases<Tx> {
  /**
   * In byte order of their names. Release them together: with one of them released by itself, `isHeld` is false, and guards
   * fail, although the others are held.
   */
  readonly leases: readonly Lease<Tx>[]
  /**
   * Aborts with the LockLostError of the first lease that is lost, before anybody else can get its lock. The others are
   * released then. Not on a release of the holder's own.
   */
  readonly signal: AbortSignal
  /** Whether all are trusted at this moment. Compares clocks, so a stalled event loop cannot make it lie. */
  isHeld(): boolean
  /** Milliseconds until the first of them stops being trusted unless it is renewed; 0 when one is over. */
  remainingMs(): number
  /** Makes all last at least `ttl` from now, and renews them by that from then on. LockLostError if one is no longer ours. */
  extend(ttl: Duration): Promise<void>
  /**
   * Makes the commit of `tx` depend on all of them, in one message: LockLostError unless all stand, and from then until `tx`
   * ends nobody else can get one of the locks. What is true of a single lease's guard is true of this one.
   */
  guard(tx: Tx | (() => Tx)): Promise<void>
  /**
   * Gives all locks back: true, or false if one had already been lost. Otherwise as a single lease's release, also with `tx`:
   * then all are given back with its commit, or none.
   */
  release(tx?: Tx | (() => Tx)): Promise<boolean>
  [Symbol.asyncDispose](): Promise<void>
}

export interface LeasesContext {
  /** Guards answer, and throw, synchronously. */
  readonly synchronous: boolean
  /** Work that nobody awaits; `close` does. */
  background(during: string, work: Promise<unknown>): void
}

export class LeasesHandle<Tx> implements Leases<Tx> {
  readonly leases: readonly LeaseHandle<Tx>[]
  readonly #context: LeasesContext
  readonly #loss = new LazySignal()

  /** `leases` are in byte order of their names. */
  constructor(context: LeasesContext, leases: readonly LeaseHandle<Tx>[]) {
    this.#context = context
    this.leases = leases
    for (const lease of leases) lease.onAbort((reason) => this.#lose(reason))
  }

  get signal(): AbortSignal {
    this.isHeld()
    return this.#loss.signal
  }

  isHeld(): boolean {
    return this.leases.every((lease) => lease.isHeld())
  }

  remainingMs(): number {
    return this.leases.reduce((least, lease) => Math.min(least, lease.remainingMs()), Number.POSITIVE_INFINITY)
  }

  async extend(ttl: Duration): Promise<void> {
    this.#assertNoneLost()
    await this.#all(this.leases.map((lease) => lease.extend(ttl)))
  }

  guard(tx: Tx | (() => Tx)): Promise<void> {
    try {
      this.#assertNoneLost()
      const transaction = currentTransaction(tx)
      const guards = this.leases.map((lease) => lease.guard(transaction))
      // Of a synchronous driver each has answered; what is left to be awaited is the same for all.
      return this.#context.synchronous ? guards.at(-1)! : this.#all(guards).then(() => undefined)
    } catch (error) {
      // A synchronous transaction can be stopped only by what is thrown before it goes on.
      if (this.#context.synchronous) throw error
      return Promise.reject(error)
    }
  }

  async release(tx?: Tx | (() => Tx)): Promise<boolean> {
    const released =
      tx === undefined
        ? await this.#all(this.leases.map((lease) => lease.release()))
        : await this.#releaseIn(currentTransaction(tx))
    return released.every((each) => each)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  /** Guarded first: where one is lost, the others are left as they are. */
  async #releaseIn(tx: Tx): Promise<boolean[]> {
    const guarded = this.guard(tx)
    // A synchronous transaction is over before anything is awaited in it.
    if (this.#context.synchronous) return this.#all(this.leases.map((lease) => lease.release(tx)))
    await guarded
    const released: boolean[] = []
    for (const lease of this.leases) released.push(await lease.release(tx))
    return released
  }

  /** Waits for all of it. Of several failures, the loss that led to the others is told, or else the first. */
  async #all<T>(calls: readonly Promise<T>[]): Promise<T[]> {
    const outcomes = await Promise.allSettled(calls)
    return outcomes.map((outcome) => {
      if (outcome.status === 'fulfilled') return outcome.value
      if (outcome.reason instanceof LockLostError) this.#assertNoneLost()
      throw outcome.reason
    })
  }

  /** Once: to release the others aborts their signals, too. */
  #lose(reason: LockLostError): void {
    if (this.#loss.reason !== undefined) return
    this.#loss.abort(reason)
    const { lock } = reason
    for (const lease of this.leases) {
      if (lease.name === lock || !lease.isHeld()) continue
      const releasing = lease.evict(`the lease on ${JSON.stringify(lock)}, which belongs to it, is lost`)
      this.#context.background(`releasing ${JSON.stringify(lease.name)}`, releasing)
    }
  }

  #assertNoneLost(): void {
    const { reason } = this.#loss
    if (this.isHeld() || reason === undefined) return
    throw new LockLostError(reason.lock, 'and with it those that were acquired together', { cause: reason })
  }
}
