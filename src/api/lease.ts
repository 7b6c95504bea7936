import type { DenseSet } from '../base/dense-set.ts'
import type { Duration } from '../base/duration.ts'
import { DatabaseError, LockError, LockLostError } from '../base/errors.ts'
import { toJson } from '../base/json.ts'
import { bounded, untilUnlocked } from '../base/timing.ts'
import { AnswerBound } from '../process/answer-bound.ts'
import type { HandOffs } from '../process/hand-offs.ts'
import type { Beat, Heartbeat, Renewable } from '../process/heartbeat.ts'
import type { ProcessStore } from '../process/store/index.ts'
import type { NewMark } from '../protocol/marks.ts'
import {
  type CallerQuery,
  type GuardResult,
  type Hold,
  type ReleaseResult,
  type Renewal,
  toHold,
} from '../protocol/store.ts'
import type { Events } from './events.ts'
import { LazySignal } from './lazy-signal.ts'
import { currentTransaction, type Mode, toTtl } from './options.ts'
import type { RunLease } from './reentry.ts'

/**
 * A hold with an expiry, renewed while its holder lives. Held until it is released or lost; never held again after that.
 */
export interface Lease<Tx> {
  readonly name: string
  /** The fencing token: it rises with every change of owner of this lock. */
  readonly token: bigint
  /** A random id, with a new one for each hold of a lock; holds of several locks that were acquired at once may share one. */
  readonly owner: string
  /** Beside others that are shared, or alone. Permits of a semaphore are shared. */
  readonly mode: Mode
  /**
   * What the last `checkpoint` of a holder left, when this lease was acquired; null if nothing. Null for a shared lease. `purge`
   * takes it off together with the row of the lock; forceRelease leaves it to the next holder.
   */
  readonly payload: unknown
  /**
   * Aborts, with a LockLostError, before anybody else can get the lock: at the lease's deadline at the latest, and when
   * `locks.close()` releases it. Not on a release of the holder's own.
   */
  readonly signal: AbortSignal
  /** Whether the lease is trusted at this moment. Compares clocks, so a stalled event loop cannot make it lie. */
  isHeld(): boolean
  /** Milliseconds until the lease stops being trusted unless it is renewed; 0 when it is over. */
  remainingMs(): number
  /**
   * Makes the lease last at least `ttl` from now, and renews it by that from then on. LockLostError if it is no longer ours.
   * DATABASE if there is no answer within `statementTimeout`; it may be extended nevertheless.
   */
  extend(ttl: Duration): Promise<void>
  /**
   * Leaves `value`, at most 64 KiB of JSON, to whoever holds the lock next, also if this process dies: as its `payload`. In the
   * commit of `tx`, or else in one of its own; that depends on this lease as with `guard`: LockLostError if it is lost. Each one
   * replaces the one before, and undefined leaves nothing. INVALID_ARGUMENT for a shared lease.
   */
  checkpoint(value: unknown, tx?: Tx | (() => Tx)): Promise<void>
  /**
   * Makes an exclusive lease shared, with the same token, and nobody in between: those at the head of the queue who want to
   * share the lock come in with it. Does nothing to a lease that is shared. Waits for the end of a transaction that the lease
   * guards: LOCK_TIMEOUT after `statementTimeout`. LockLostError if it is no longer ours. If the database cannot be asked, the
   * lease may be either: call it again. There is no way back: two who waited to be alone would wait for each other. What
   * `toJSON` gave before is of the lease as it was: take it again. INVALID_ARGUMENT while bodies of `run` share it by `reenter`.
   */
  downgrade(): Promise<void>
  /**
   * Makes the commit of `tx` depend on this lease: LockLostError unless the lease stands, and from then until `tx` ends
   * nobody whom it excludes can get the lock, even past the expiry. Call it first in the transaction, and never inside a
   * savepoint that may be rolled back. With a synchronous SQLite driver it also works, and throws, synchronously. DATABASE if
   * there is no answer within `statementTimeout`: roll `tx` back.
   */
  guard(tx: Tx | (() => Tx)): Promise<void>
  /**
   * Runs `query` in `tx` under a guard and answers its rows: in one round trip on PostgreSQL, where it must have no WITH of
   * its own, else as `guard` followed by the query. Takes `{ text, values }`, `{ sql, parameters }` or a Kysely query. What
   * your statement may take, your own settings say.
   */
  guarded<Row = Record<string, unknown>>(tx: Tx | (() => Tx), query: GuardedQuery): Promise<Row[]>
  /**
   * Gives the lock back: true, or false if it had already been lost. Repeated calls answer the same. Rejects if the
   * database cannot be asked within `statementTimeout`, or if a transaction keeps the row locked; the lock then frees itself
   * at its expiry at the latest. While the database cannot be asked, the release is repeated in the background until then.
   *
   * INVALID_ARGUMENT while bodies of `run` share it by `reenter`: the last of them to end releases it.
   *
   * With `tx`, gives it back with the commit of that transaction, whose commit thereby depends on the lease as with `guard`:
   * LockLostError if it is lost. The lease is not renewed any more; if `tx` rolls back, call `release()` or let it run out.
   */
  release(tx?: Tx | (() => Tx)): Promise<boolean>
  [Symbol.asyncDispose](): Promise<void>
  /** What `locks.restore` takes; the token as text. */
  toJSON(): LeaseJson
}

export interface LeaseJson {
  readonly name: string
  readonly owner: string
  readonly token: string
  readonly ttlMs: number
  /** Of a shared lease: where the database keeps it. */
  readonly slot?: number
}

export interface LeaseContext<Tx> {
  readonly store: ProcessStore<Tx>
  readonly handOffs: HandOffs
  readonly heartbeat: Heartbeat
  /** Those that are not over yet, releases under way included. */
  readonly leases: DenseSet<LeaseHandle<Tx>>
  readonly events: Events
  /** How long a call may take while a row is locked, or the database not available. */
  readonly statementTimeoutMs: number
  /** Whether the instance has been closed and has waited for what was under way. */
  isOver(): boolean
  /** Work that goes on after the caller has its answer. */
  background(during: string, work: Promise<unknown>): void
}

export interface LeaseTerms {
  readonly ttlMs: number
  /** What is left of a lease that goes on; the whole ttl of a new one. */
  readonly remainingMs: number
  /** The hold was handed over, and has to be renewed soon to last for its ttl. */
  readonly unconfirmed: boolean
  readonly renew: boolean
  readonly maxHoldMs: number
  /** For how long it is to last at least, from now on, though it is left. */
  readonly atLeastMs: number
  /** performance.now() from before the request for the lease was sent. */
  readonly sentAt: number
}

/** Accepts Kysely builders and compiled queries, and `{ text, values }`. */
export type GuardedQuery =
  | CallerQuery
  | { readonly sql: string; readonly parameters: readonly unknown[] }
  | { compile(): { readonly sql: string; readonly parameters: readonly unknown[] } }

/**
 * The holder trusts its lease for less than the database grants: less 1 % for clocks that run at different rates, less
 * 50 ms for timers that fire late; never more than a twentieth, so that short leases remain of use.
 */
export function trusted(ttlMs: number): number {
  if (ttlMs === Number.POSITIVE_INFINITY) return ttlMs
  return ttlMs - Math.min(ttlMs / 20, ttlMs / 100 + 50)
}

const NOTHING = Promise.resolve()

export class LeaseHandle<Tx> implements Lease<Tx>, Renewable, RunLease {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  /** @internal */
  place: number | undefined
  /** @internal */
  beat: Beat | undefined
  /** @internal Of a shared lease. */
  slot: number | undefined
  payload: unknown = null
  /** @internal */
  bodies = 0
  readonly #context: LeaseContext<Tx>
  readonly #terms: LeaseTerms
  /** A downgrade on its way to the database, which ends without an error. */
  #sharing: Promise<unknown> | undefined
  /** When the last downgrade had its answer: what was asked before may have been of the hold as it was. */
  #sharedAt = Number.NEGATIVE_INFINITY
  /** A downgrade had no answer: the database may know the hold as it was, or as it is to be. */
  #sharedInDoubt = false
  /** Guards on their way. */
  #guarding = 0
  readonly #abortable = new LazySignal()
  readonly #lastDeadline: number
  readonly #keptUntil: number
  /** The database knows that it is to last for `atLeastMs`. */
  #isLong: boolean
  /** It is over for its holder, and stays taken. */
  #isKept = false
  #ttlMs: number
  #deadline: number
  #timer: NodeJS.Timeout | undefined
  #state: 'held' | 'released' | 'lost' = 'held'
  #reason = ''
  #confirmed: boolean
  /** The last checkpoint. It ends without an error. */
  #checkpointing: Promise<unknown> = NOTHING
  #releasing: Promise<boolean> | undefined
  #releaseUnderWay: Promise<boolean> | undefined
  #releaseFailure: unknown
  #onReleaseFailure: (() => void) | undefined
  #releasedWithCommit = false
  #onEnd: (() => void)[] | undefined
  #onAbort: ((reason: LockLostError) => void) | undefined

  constructor(context: LeaseContext<Tx>, hold: Hold, terms: LeaseTerms) {
    this.name = hold.name
    this.owner = hold.owner
    this.token = hold.token
    this.slot = hold.slot
    this.#context = context
    this.#terms = terms
    this.#ttlMs = terms.ttlMs
    this.#lastDeadline = terms.sentAt + trusted(terms.maxHoldMs)
    this.#deadline = Math.min(this.#lastDeadline, terms.sentAt + trusted(terms.remainingMs))
    this.#confirmed = !terms.unconfirmed
    this.#isLong = !terms.unconfirmed || terms.atLeastMs === 0
    this.#keptUntil = performance.now() + terms.atLeastMs
    context.leases.add(this)
    this.#watch()
    // Where the database is in this process, a busy caller keeps timers from firing for longer than a hand-off lasts.
    const { synchronous, single } = context.store.store
    if (terms.unconfirmed) context.heartbeat.add(this, synchronous || single ? 0 : terms.remainingMs)
    else if (terms.renew) context.heartbeat.add(this, this.#ttlMs)
  }

  get mode(): Mode {
    return this.slot === undefined ? 'exclusive' : 'shared'
  }

  get signal(): AbortSignal {
    this.isHeld()
    return this.#abortable.signal
  }

  isHeld(): boolean {
    if (this.#state === 'held' && performance.now() >= this.#deadline) {
      this.lose(this.#deadline === this.#lastDeadline ? 'it has lasted for maxHold' : 'it was not renewed in time')
    }
    return this.#state === 'held'
  }

  remainingMs(): number {
    return this.isHeld() ? this.#deadline - performance.now() : 0
  }

  async extend(ttl: Duration): Promise<void> {
    const ttlMs = toTtl(ttl)
    this.#assertHeld()
    const wanted = this.#withinMaxHold(this.#isLong ? ttlMs : Math.max(ttlMs, this.#terms.atLeastMs))
    const extending = untilUnlocked(async () => {
      if (this.#isInDoubt) await this.#whereItIs()
      this.#assertHeld()
      const sentAt = performance.now()
      const renewal = await this.#context.store.renew({ ...this.#hold(), ttlMs: wanted })
      const again = renewal.outcome === 'held' || this.#mayBeOf(renewal, sentAt)
      this.onRenewal(renewal, sentAt)
      return !again
    }, this.#context.statementTimeoutMs)
    if (!(await this.#bound().within(extending))) throw this.#stillLocked('extend')
    this.#assertHeld()
    this.#ttlMs = ttlMs
    // With another ttl it is due at another time.
    if (this.#terms.renew) this.#context.heartbeat.add(this, ttlMs)
  }

  async downgrade(): Promise<void> {
    if (this.bodies > 1) throw isShared(this.name, this.bodies)
    this.#assertHeld()
    const downgrading = untilUnlocked(async () => {
      await this.#sharing
      this.#assertHeld()
      if (this.slot !== undefined && !this.#sharedInDoubt) return true
      // A guard that comes after it would look for the hold where it was.
      return this.#guarding === 0 && (await this.#share()) !== 'locked'
    }, this.#context.statementTimeoutMs)
    if (!(await this.#bound().within(downgrading))) throw this.#stillLocked('downgrade')
    this.#assertHeld()
  }

  /** Asks for it once. */
  async #share(): Promise<'downgraded' | 'locked' | 'lost'> {
    const { handOffs, events, heartbeat } = this.#context
    const asking = handOffs.downgrade(this.#hold())
    this.#sharing = asking.catch(() => undefined)
    try {
      const result = await asking
      const wasInDoubt = this.#sharedInDoubt
      this.#sharedInDoubt = false
      this.#sharedAt = performance.now()
      if (result.outcome === 'downgraded') {
        this.slot = result.slot
        if (this.#state === 'held') events.emit({ type: 'downgraded', ...this.#told() })
        // Renewals that found nothing where it was may have been the ones that were to confirm it, or to keep it.
        if ((wasInDoubt || !this.#confirmed) && this.isHeld()) heartbeat.add(this, 0)
      } else if (result.outcome === 'lost') {
        this.lose('the database says that it ran out or that somebody else has it')
      }
      return result.outcome
    } catch (error) {
      this.#sharedInDoubt ||= error instanceof DatabaseError && error.failure === 'connection'
      throw error
    } finally {
      this.#sharing = undefined
    }
  }

  async checkpoint(value: unknown, tx?: Tx | (() => Tx)): Promise<void> {
    const mark = {
      kind: 'checkpoint',
      name: this.name,
      part: '',
      value: toJson('a checkpoint', value),
      keepMs: null,
    } as const
    if (tx === undefined) return this.#checkpointInTurn(mark)
    this.#assertExclusive()
    const transaction = currentTransaction(tx)
    await this.guard(transaction)
    const writing = this.#context.store.store.writeMarkIn(transaction, { ...mark, token: this.token })
    await this.#bound().withinTransaction(writing)
  }

  /** The last one is what stays, so they go one after the other. */
  #checkpointInTurn(mark: Omit<NewMark, 'token'>): Promise<void> {
    const writing = this.#checkpointing.then(() => this.mark(mark))
    this.#checkpointing = writing.catch(() => undefined)
    return writing
  }

  /** @internal Writes it if the lease stands; `result` is of what has been done under it. */
  async mark(mark: Omit<NewMark, 'token'>, result?: unknown): Promise<void> {
    this.#assertExclusive()
    const writing = untilUnlocked(async () => {
      if (!this.isHeld()) throw new LockLostError(this.name, this.#lostBecause(), { result })
      const hold = { ...this.#hold(), ttlMs: this.#ttlMs }
      const outcome = await this.#context.store.store.writeMarkUnder(hold, { ...mark, token: this.token })
      if (outcome === 'lost') {
        this.lose('the database says that it ran out or that somebody else has it')
        throw new LockLostError(this.name, this.#lostBecause(), { result })
      }
      return outcome === 'written'
    }, this.#context.statementTimeoutMs)
    if (!(await this.#bound().within(writing))) throw this.#stillLocked('mark')
  }

  guard(tx: Tx | (() => Tx)): Promise<void> {
    try {
      const transaction = currentTransaction(tx)
      return this.#guard(transaction) ?? new Guarded(() => this.#context.store.store.assertOpen?.(transaction))
    } catch (error) {
      // A synchronous transaction can be stopped only by what is thrown before it goes on.
      if (this.#context.store.store.synchronous) throw error
      return Promise.reject(error)
    }
  }

  async guarded<Row = Record<string, unknown>>(tx: Tx | (() => Tx), query: GuardedQuery): Promise<Row[]> {
    const { store } = this.#context.store
    this.#assertHeld()
    const caller = toCallerQuery(query)
    const transaction = currentTransaction(tx)
    if (store.guardedQuery !== undefined) {
      await this.#whereItIs()
      this.#guarding++
      try {
        return (await store.guardedQuery(transaction, this.#hold(), caller)) as Row[]
      } catch (error) {
        await this.#assertNotTakenOver(error, this.#bound())
        throw error
      } finally {
        this.#guarding--
      }
    }
    await this.#guard(transaction)
    return (await store.query(transaction, caller)) as Row[]
  }

  release(tx?: Tx | (() => Tx)): Promise<boolean> {
    if (this.bodies > 1) return Promise.reject(isShared(this.name, this.bodies))
    if (tx !== undefined) return this.#releaseIn(currentTransaction(tx))
    return this.#releaseOnce()
  }

  #releaseOnce(): Promise<boolean> {
    this.#releasing ??= this.#release()
    return this.#releasing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  toJSON(): LeaseJson {
    const { slot } = this
    return {
      name: this.name,
      owner: this.owner,
      token: `${this.token}`,
      ttlMs: this.#ttlMs,
      ...(slot !== undefined && { slot }),
    }
  }

  /** @internal Releases it although its holder may still be at work, and tells that holder first. */
  evict(reason: string): Promise<boolean> {
    const isToStay = this.isHeld() && performance.now() < this.#keptUntil
    if (this.isHeld()) this.#abort(new LockLostError(this.name, reason))
    if (!isToStay) return this.#releaseOnce()
    return this.leave()
  }

  /** @internal Its body has ended: releases it, or keeps it taken for as long as it is to last. Whether it was held until now. */
  async leave(): Promise<boolean> {
    if (performance.now() >= this.#keptUntil || !this.isHeld()) return this.release()
    // Until then it lasts for a moment.
    if (!(await untilUnlocked(() => this.#lengthen(), this.#context.statementTimeoutMs)))
      throw this.#stillLocked('keep')
    this.#assertHeld()
    this.#keep()
    return true
  }

  /** Whether it lasts for as long as it is to, which it does from the first renewal on if it was handed over. */
  async #lengthen(): Promise<boolean> {
    if (!this.#isLong && this.isHeld()) await this.#confirm()
    return this.#isLong || !this.isHeld()
  }

  /** Not renewed any more, nor released when the instance is closed. */
  #keep(): void {
    this.#stop('released')
    this.#isKept = true
    this.#releasing = Promise.resolve(true)
    this.#context.leases.delete(this)
    const release = () => {
      if (!this.#context.isOver())
        this.#context.background(`releasing ${JSON.stringify(this.name)}`, this.#beginRelease())
    }
    this.#timer = setTimeout(release, Math.ceil(this.#keptUntil - performance.now())).unref()
  }

  /** @internal Whether it was made by the instance with that context. */
  isOf(context: LeaseContext<Tx>): boolean {
    return this.#context === context
  }

  /** @internal Calls `listener` once, when the lease has been released or lost; at once if it has been already. */
  onEnd(listener: () => void): void {
    if (this.#state !== 'held') listener()
    else if (this.#onEnd === undefined) this.#onEnd = [listener]
    else this.#onEnd.push(listener)
  }

  /** @internal Calls `listener`, the only one, when the signal aborts, or would if anybody had asked for it. */
  onAbort(listener: (reason: LockLostError) => void): void {
    const { reason } = this.#abortable
    if (reason !== undefined) listener(reason)
    else this.#onAbort = listener
  }

  /** @internal */
  renewalTtlMs(): number | null {
    if (!this.isHeld() || (this.#confirmed && !this.#terms.renew)) return null
    return this.#deadline < this.#lastDeadline ? this.#withinMaxHold(this.#nextTtlMs) : null
  }

  /** @internal */
  onRenewal(renewal: Renewal, sentAt: number): void {
    if (this.#state !== 'held') return
    if (this.#mayBeOf(renewal, sentAt)) {
      this.onUnknown(new Error('the lease was made shared meanwhile'))
      if (this.#sharedInDoubt && this.#sharing === undefined) {
        this.#context.background(`sharing ${JSON.stringify(this.name)}`, this.#share())
      }
      return
    }
    if (renewal.outcome === 'lost') {
      this.lose('the database says that it ran out or that somebody else has it')
      return
    }
    // Both deadlines hold, because no renewal shortens a lease.
    this.#deadline = Math.min(this.#lastDeadline, Math.max(this.#deadline, sentAt + trusted(renewal.remainingMs)))
    if (!this.isHeld()) return
    this.#confirmed ||= renewal.outcome === 'renewed'
    this.#isLong ||= renewal.outcome === 'renewed'
    if (renewal.outcome === 'held') this.#context.events.emit({ type: 'held', ...this.#told() })
    else this.#context.events.emit({ type: 'renewed', ...this.#told(), remainingMs: this.remainingMs() })
  }

  /** @internal */
  onUnknown(cause: unknown): void {
    if (this.isHeld()) this.#context.events.emit({ type: 'unknown', ...this.#told(), cause })
  }

  /** @internal */
  lose(reason: string, cause?: unknown): void {
    if (this.#state !== 'held') return
    this.#end('lost')
    this.#reason = reason
    this.#context.events.emit({ type: 'lost', ...this.#told(), reason })
    this.#abort(new LockLostError(this.name, reason, { cause }))
  }

  #abort(reason: LockLostError): void {
    this.#abortable.abort(reason)
    this.#onAbort?.(reason)
  }

  #hold(): Hold {
    return toHold(this)
  }

  /** For events. */
  #told() {
    const { name, owner, token, mode } = this
    return { name, owner, token, mode }
  }

  /** Whether a renewal found nothing because it was of the hold as it was before a downgrade, or as it may not be yet. */
  #mayBeOf({ outcome }: Renewal, sentAt: number): boolean {
    return outcome === 'lost' && (this.#isInDoubt || sentAt <= this.#sharedAt)
  }

  /** Whether it has to be found out as what the database knows it. */
  get #isInDoubt(): boolean {
    return this.#sharing !== undefined || this.#sharedInDoubt
  }

  async #whereItIs(): Promise<void> {
    await this.#sharing
    if (this.#sharedInDoubt) await this.#share()
    this.#assertHeld()
  }

  #withinMaxHold(ttlMs: number): number {
    return Math.ceil(Math.min(ttlMs, this.#terms.sentAt + this.#terms.maxHoldMs - performance.now()))
  }

  #assertHeld(): void {
    if (!this.isHeld()) throw new LockLostError(this.name, this.#lostBecause())
  }

  #lostBecause(): string {
    return this.#state === 'released' ? 'it was released' : this.#reason
  }

  /** Of several who share a lock, none is the one before. */
  #assertExclusive(): void {
    if (this.slot === undefined) return
    throw new LockError(
      'INVALID_ARGUMENT',
      `the lease on ${JSON.stringify(this.name)} is shared, and leaves nothing to the next holder: take it exclusively`,
    )
  }

  #bound(): AnswerBound {
    return new AnswerBound(null, this.#context.statementTimeoutMs)
  }

  /** Undefined: a synchronous driver has answered. */
  #guard(tx: Tx): Promise<void> | undefined {
    const bound = this.#bound()
    const checked = this.#check(tx, bound)
    return checked && bound.withinTransaction(checked)
  }

  #check(tx: Tx, bound: AnswerBound): Promise<void> | undefined {
    this.#assertHeld()
    const judge = (result: GuardResult) => {
      // 'expired' in an old snapshot, while renewals this process knows of have moved the expiry: the row lock protects us.
      if (result === 'stands' || (result === 'expired' && this.isHeld())) return
      this.lose('the database says that it ran out or that somebody else has it')
      this.#assertHeld()
    }
    if (this.#isInDoubt) {
      if (this.#context.store.store.synchronous) throw isBeingShared(this.name)
      return this.#whereItIs().then(() => this.#check(tx, bound))
    }
    if (!this.#confirmed && this.#context.store.store.guardsStopRenewal)
      return this.#confirm().then(() => {
        // The caller has gone on, and another transaction may have the connection by now.
        if (bound.leftMs === 0) throw bound.noAnswer()
        return this.#check(tx, bound)
      })
    const result = this.#context.store.guard(tx, { ...this.#hold(), ttlMs: this.#ttlMs })
    if (!(result instanceof Promise)) {
      judge(result)
      return undefined
    }
    this.#guarding++
    return result
      .then(judge, async (error: unknown) => {
        await this.#assertNotTakenOver(error, bound)
        throw error
      })
      .finally(() => this.#guarding--)
  }

  /** What was handed over gets its time with the first renewal. */
  get #nextTtlMs(): number {
    return this.#isLong ? this.#ttlMs : Math.max(this.#ttlMs, this.#terms.atLeastMs)
  }

  /** A hold that was handed over lasts for a moment: too short for a transaction that keeps it from being renewed. */
  async #confirm(): Promise<void> {
    const sentAt = performance.now()
    const renewal = await this.#context.store.renew({ ...this.#hold(), ttlMs: this.#withinMaxHold(this.#nextTtlMs) })
    this.onRenewal(renewal, sentAt)
    this.#confirmed = true
    this.#assertHeld()
  }

  /**
   * A transaction whose snapshot is older than a takeover is aborted when it looks at the lock, and aborted it may be for
   * many other reasons: only a question from outside of it can tell.
   */
  async #assertNotTakenOver(error: unknown, { leftMs }: AnswerBound): Promise<void> {
    if (error instanceof LockLostError)
      this.lose('the database says that it ran out or that somebody else has it', error)
    if (!(error instanceof LockError) || error.code !== 'TRANSACTION_ABORTED') return
    const sentAt = performance.now()
    const asked = this.#context.store.renew({ ...this.#hold(), ttlMs: this.#ttlMs })
    const renewal = await bounded(asked, leftMs).catch(() => undefined)
    if (renewal !== undefined) this.onRenewal(renewal, sentAt)
    if (!this.isHeld()) throw new LockLostError(this.name, this.#reason, { cause: error.cause })
  }

  async #releaseIn(tx: Tx): Promise<boolean> {
    this.#assertHeld()
    if (this.#isInDoubt) await this.#whereItIs()
    this.#guarding++
    const result = await this.#context.store.store.releaseIn(tx, this.#hold()).finally(() => this.#guarding--)
    if (result === 'lost') {
      this.lose('the database says that somebody else has it')
      this.#assertHeld()
      return false
    }
    this.#releasedWithCommit = true
    this.#end('released')
    if (result.awaited) this.#context.handOffs.promoteLater(this.name)
    return true
  }

  async #release(): Promise<boolean> {
    // One that failed before is repeated as it was.
    if (!this.isHeld() && (this.#state === 'lost' || this.#releasedWithCommit)) {
      await this.#releaseLost()
      return this.#releasedWithCommit
    }
    this.#stop('released')
    // One that is under way began before, and its time may be up.
    const underWay = this.#releaseUnderWay?.catch(() => this.#beginRelease()) ?? this.#beginRelease()
    try {
      return await this.#inTime(underWay)
    } catch (error) {
      this.#releasing = undefined
      throw error
    }
  }

  #beginRelease(): Promise<boolean> {
    this.#releaseUnderWay ??= this.#releaseUntilAnswered().catch((error: unknown) => {
      this.#releaseUnderWay = undefined
      throw error
    })
    return this.#releaseUnderWay
  }

  /** Rejects when its caller has waited for long enough, with what a release that is repeated has failed by. The repetition goes on. */
  async #inTime(underWay: Promise<boolean>): Promise<boolean> {
    const bound = this.#bound()
    let isOver = false
    let timer: NodeJS.Timeout | undefined
    const answered = underWay.finally(() => {
      isOver = true
    })
    const failed = new Promise<never>((_, reject) => {
      const rejectLate = () => {
        if (bound.leftMs === 0 && this.#releaseFailure !== undefined) reject(this.#releaseFailure)
      }
      this.#onReleaseFailure = rejectLate
      timer = setTimeout(rejectLate, bound.leftMs + 1)
    })
    try {
      return await bound.within(Promise.race([answered, failed]))
    } finally {
      clearTimeout(timer)
      this.#onReleaseFailure = undefined
      if (!isOver) this.#context.background(`releasing ${JSON.stringify(this.name)}`, underWay)
    }
  }

  async #releaseUntilAnswered(): Promise<boolean> {
    let answer: ReleaseResult['outcome']
    try {
      answer = await this.#repeatedRelease()
    } finally {
      // Not before: whoever hears of the hold meanwhile would think that nobody has it, and pass it on.
      this.#ended()
    }
    // Not ours after a release that failed: that one may have worked nevertheless.
    // What was kept for as long as it was to last may have run out by itself.
    if (answer === 'released' || (answer === 'lost' && (this.#releaseFailure !== undefined || this.#isKept))) {
      this.#context.events.emit({ type: 'released', ...this.#told() })
      return true
    }
    // Force-released or taken over a moment ago, and not yet noticed.
    this.#context.events.emit({ type: 'lost', ...this.#told(), reason: 'found lost on release' })
    return false
  }

  async #repeatedRelease(): Promise<ReleaseResult['outcome']> {
    const { handOffs, statementTimeoutMs, isOver } = this.#context
    const whereItIs = async () => {
      await this.#sharing
      if (this.#sharedInDoubt) await this.#share()
      return this.#hold()
    }
    const answer = await handOffs.releaseRepeatedly(whereItIs, {
      deadline: this.#deadline,
      lockedMs: statementTimeoutMs,
      isOver,
      isAwaited: () => this.#onReleaseFailure !== undefined,
      onFailure: (error, isRepeated) => {
        this.#releaseFailure = error
        if (isRepeated) this.#onReleaseFailure?.()
      },
    })
    if (answer !== 'locked') return answer
    this.#releaseFailure = this.#stillLocked('release')
    throw this.#releaseFailure
  }

  /** A lease that is not trusted any more may still stand in the database: others need not wait for its expiry. */
  async #releaseLost(): Promise<void> {
    try {
      await this.#context.handOffs.release(this.#hold())
    } catch (cause) {
      this.#context.events.emit({ type: 'error', during: 'releasing a lost lease', cause })
    }
  }

  #end(state: 'released' | 'lost'): void {
    this.#stop(state)
    this.#ended()
  }

  #stop(state: 'released' | 'lost'): void {
    this.#state = state
    clearTimeout(this.#timer)
    this.#context.heartbeat.remove(this)
  }

  #ended(): void {
    this.#context.leases.delete(this)
    const listeners = this.#onEnd
    this.#onEnd = undefined
    for (const listener of listeners ?? []) listener()
  }

  /** Aborts the signal at the deadline, which renewals move on meanwhile. Does not keep the process alive. */
  #watch(): void {
    this.#timer = setTimeout(
      () => {
        if (this.isHeld()) this.#watch()
      },
      Math.max(0, Math.ceil(this.#deadline - performance.now())),
    )
    this.#timer.unref()
  }

  #stillLocked(verb: string): LockError {
    return new LockError(
      'LOCK_TIMEOUT',
      `cannot ${verb} the lease on ${JSON.stringify(this.name)}: an open transaction keeps its row locked. If that is a transaction which this lease guards, call ${verb}() after it has ended`,
    )
  }
}

function isBeingShared(name: string): LockError {
  return new LockError(
    'INVALID_ARGUMENT',
    `a downgrade of the lease on ${JSON.stringify(name)} has no answer yet: await downgrade() before guard()`,
  )
}

/** The answer of a synchronous guard: nothing more happens, unless somebody awaits it. */
class Guarded extends Promise<void> {
  static override readonly [Symbol.species] = Promise
  readonly #assertOpen: () => void

  constructor(assertOpen: () => void) {
    super((resolve) => resolve())
    this.#assertOpen = assertOpen
  }

  // biome-ignore lint/suspicious/noThenProperty: that is what awaiting calls.
  override then<T = void, U = never>(
    onFulfilled?: ((value: undefined) => T | PromiseLike<T>) | null,
    onRejected?: ((reason: unknown) => U | PromiseLike<U>) | null,
  ): Promise<T | U> {
    return super.then(() => void this.#assertOpen()).then(onFulfilled, onRejected)
  }
}

function isShared(name: string, bodies: number): LockError {
  return new LockError(
    'INVALID_ARGUMENT',
    `the lease on ${JSON.stringify(name)} is shared by ${bodies} bodies of run() that re-entered each other: it stays what it is, and the last of them to end releases it`,
  )
}

function toCallerQuery(query: GuardedQuery): CallerQuery {
  if ('text' in query) return query
  const { sql: text, parameters: values } = 'compile' in query ? query.compile() : query
  return { text, values }
}
