import { DatabaseError, type LockError, LockTimeoutError } from '../base/errors.ts'
import { backoff, untilUnlocked } from '../base/timing.ts'
import type { Claim } from '../protocol/circles.ts'
import { type AttemptResult, type Demand, type Hold, toHold } from '../protocol/store.ts'
import type { AnswerBound } from './answer-bound.ts'
import { type Call, TIME_OUT } from './calls.ts'
import type { Deadlocks } from './deadlocks.ts'
import type { HandOffs } from './hand-offs.ts'
import { misuse } from './misuse.ts'
import type { Unsent } from './store/index.ts'
import type { Waiter, Waiters } from './waiters.ts'

export interface AcquireContext {
  readonly waiters: Waiters
  readonly handOffs: HandOffs
  readonly holder: string
  readonly statementTimeoutMs: number
  readonly deadlocks: Deadlocks
  attempt(attempt: Unsent): Promise<AttemptResult>
  /** Work that goes on after the caller has its answer. `close` waits for it. */
  background(during: string, work: Promise<unknown>): void
}

/** What a caller asks for. */
export interface Wanted extends Demand {
  readonly name: string
  readonly ttlMs: number
  readonly maxHoldMs: number
  /** Null: a try, which waits for nobody. */
  readonly waitMs: number | null
  readonly session: string | null
  /** What the caller holds while it waits, as far as is known; undefined if that is nothing. */
  readonly claims?: (() => readonly Claim[]) | undefined
}

export interface Granted extends Hold {
  readonly takeover: boolean
  /** Whether a holder may have left a checkpoint. */
  readonly checkpointed?: boolean | undefined
  /** performance.now() from before the granting request was sent. */
  readonly sentAt: number
  /** How long the hold lasts from then on. */
  readonly remainingMs: number
  /** It was handed over, and lasts for a moment only unless it is renewed. */
  readonly unconfirmed: boolean
  readonly waitedMs: number
}

/** Attempts that fail are repeated at least this often, however short the wait, if there is time to answer. */
const TRIES_AGAINST_FAILURES = 3
/** A row of ours that another statement has locked is free again a moment later. */
const LOCKED_ROW_PAUSE_MS = 5

/**
 * Attempts, and if somebody holds the lock, waits for it to be handed over, for the deadline or an abort. Resolves with null
 * if it is a try and somebody holds the lock.
 */
export async function acquire(
  context: AcquireContext,
  call: Call,
  wanted: Wanted,
  bound: AnswerBound,
): Promise<Granted | null> {
  const acquisition = new Acquisition(context, call, wanted, bound)
  try {
    return await acquisition.untilAnswered()
  } finally {
    acquisition.end()
  }
}

/** One caller's way to a lock. */
class Acquisition {
  readonly #context: AcquireContext
  readonly #call: Call
  readonly #wanted: Wanted
  readonly #bound: AnswerBound
  readonly #attempt: Unsent
  readonly #deadline: number
  readonly #waits: boolean
  #waiter: Waiter | undefined
  /** Others of this process wait behind it meanwhile. */
  #attempting = false
  #sent: Promise<AttemptResult> | undefined
  /** Attempts whose reply was lost, or that nobody waits for any more: they, or a grant, may still be on their way. */
  #ambiguous: Promise<AttemptResult>[] = []
  #failures = 0
  #hasPolledAgain = false
  /** Whether the database has said anything of this lock: what nobody is known to hold has not been waited for. */
  #answered = false
  #holder: string | null = null
  #unwatch: (() => void) | undefined

  constructor(context: AcquireContext, call: Call, wanted: Wanted, bound: AnswerBound) {
    const { name, session, waitMs, weight, permits } = wanted
    this.#context = context
    this.#call = call
    this.#wanted = wanted
    this.#bound = bound
    const ttlMs = Math.min(wanted.ttlMs, wanted.maxHoldMs)
    this.#attempt = { name, owner: undefined, session, ttlMs, holder: context.holder, weight, permits }
    this.#deadline = bound.started + (waitMs ?? 0)
    this.#waits = waitMs !== null && waitMs > 0
  }

  async untilAnswered(): Promise<Granted | null> {
    const { waiters } = this.#context
    const { name, waitMs } = this.#wanted
    for (;;) {
      try {
        // Behind others of this process there is nothing to try, unless it was this one that they wait behind.
        if (!this.#waits || this.#attempting || !waiters.contended(name, this.#wanted)) {
          const outcome = await this.#try()
          if (outcome === 'again') continue
          if (outcome !== 'held') return outcome
        }
        if (waitMs === null) return null
        // The row is gone if nothing was handed over: time to try.
        const granted = await this.#wait()
        if (granted !== undefined) return granted
      } catch (error) {
        await this.#pauseAfter(error)
      }
    }
  }

  end(): void {
    const { waiters, background } = this.#context
    if (this.#waiter !== undefined) waiters.leave(this.#waiter)
    this.#endAttempt()
    this.#unwatch?.()
    if (this.#ambiguous.length > 0) {
      background('giving back a lock granted too late', releaseUnwanted(this.#context, this.#attempt, this.#ambiguous))
    }
  }

  async #try(): Promise<Granted | 'again' | 'held'> {
    const { waiters, attempt: send } = this.#context
    const { name } = this.#wanted
    if (this.#waits && !this.#attempting) waiters.beginAttempt(name, this.#wanted)
    this.#attempting = this.#waits
    const sentAt = performance.now()
    this.#sent = send(this.#attempt)
    const result = await this.#call.race(this.#sent, this.#bound.patienceMs)
    if (result === TIME_OUT) throw this.#bound.noAnswer()
    this.#sent = undefined
    this.#answered = true
    if (this.#attempting) waiters.attemptAnswered(name)
    if (result.granted) return this.#granted(result, sentAt)
    if (result.kind !== undefined) throw misuse(name, this.#wanted, result.kind)
    return result.ours === true ? this.#pauseForOwnRow() : this.#refused(result)
  }

  #granted(result: AttemptResult & { readonly granted: true }, sentAt: number): Granted {
    this.#ambiguous = []
    const { ttlMs } = this.#attempt
    const waitedMs = performance.now() - this.#bound.started
    const { takeover, checkpointed } = result
    return {
      ...grantedHold(this.#attempt, result),
      takeover,
      checkpointed,
      sentAt,
      remainingMs: ttlMs!,
      unconfirmed: false,
      waitedMs,
    }
  }

  /** An earlier attempt was granted, but its row is locked by another statement: that is over in a moment. */
  async #pauseForOwnRow(): Promise<'again'> {
    if (this.#bound.leftMs === 0) throw this.#bound.noAnswer()
    await this.#call.race(undefined, LOCKED_ROW_PAUSE_MS)
    return 'again'
  }

  async #refused({ holders, queued }: AttemptResult & { readonly granted: false }): Promise<'again' | 'held'> {
    const nobodySeen = holders.length === 0 && !queued
    // Then a transaction has the row locked: as an attempt of ours might whose reply was lost.
    if (nobodySeen && this.#ambiguous.length > 0) throw this.#bound.noAnswer()
    this.#failures = 0
    this.#holder = holders[0] ?? null
    // Whom it should have gone to is dead, if there is nobody to hand it over to.
    if (queued) {
      const promoted = await this.#call.race(this.#context.handOffs.promote(this.#wanted.name), this.#bound.patienceMs)
      return promoted === 'idle' ? 'again' : 'held'
    }
    // Nobody was seen to hold it, as when its row was purged at that very moment: looked at again, once.
    if (!nobodySeen || this.#hasPolledAgain) return 'held'
    this.#hasPolledAgain = true
    return 'again'
  }

  /** In the queue. Undefined: the lock's row is gone. */
  async #wait(): Promise<Granted | undefined> {
    const { waiters } = this.#context
    const { name, ttlMs, maxHoldMs, session, weight, permits } = this.#wanted
    const leftMs = Math.max(0, this.#deadline - performance.now())
    if (leftMs === 0 && (this.#answered || this.#failures > 0)) throw this.#timeUp()
    const terms = { ttlMs: Math.min(ttlMs, maxHoldMs), session, weight, permits }
    const waiter = waiters.join(name, terms, leftMs, this.#attempting)
    this.#waiter = waiter
    this.#endAttempt()
    this.#watch()
    const served = await this.#call.race(waiter.served, leftMs)
    // Whether somebody holds it has to be known, or the caller would be told of the wrong thing.
    if (served === TIME_OUT && !this.#answered && !waiter.answered) {
      await this.#call.race(Promise.race([waiter.whenAnswered(), waiter.served]), this.#bound.patienceMs)
    }
    const handed = served === TIME_OUT ? await this.#call.race(waiters.giveUp(waiter), this.#bound.patienceMs) : served
    this.#holder = waiter.holder ?? this.#holder
    this.#answered ||= waiter.answered
    if (handed !== undefined && handed !== TIME_OUT) {
      this.#waiter = undefined
      return { ...handed, unconfirmed: true, waitedMs: performance.now() - this.#bound.started }
    }
    if (served === TIME_OUT) throw this.#timeUp()
    return undefined
  }

  /** Others may wait for what the caller holds, and it for what they hold. */
  #watch(): void {
    const { name, weight, claims } = this.#wanted
    if (claims === undefined || this.#unwatch !== undefined) return
    const reject = (error: LockError) => this.#call.cancel(error)
    const queuedAt = () => this.#waiter?.queuedAt
    this.#unwatch = this.#context.deadlocks.watch({ name, weight, claims, queuedAt, reject })
  }

  /** Throws what cannot be helped, or for which there is no time. */
  async #pauseAfter(error: unknown): Promise<void> {
    const failure = error instanceof DatabaseError ? error.failure : 'other'
    if (this.#sent !== undefined && (this.#call.cancelled || failure === 'connection')) {
      this.#ambiguous.push(this.#sent)
    }
    this.#sent = undefined
    this.#failures++
    const pauseMs = backoff(this.#failures)
    const mayRepeat = performance.now() < this.#deadline || this.#failures < TRIES_AGAINST_FAILURES
    if (failure === 'other' || !mayRepeat || pauseMs >= this.#bound.leftMs) throw error
    this.#endAttempt()
    await this.#call.race(undefined, pauseMs)
  }

  #endAttempt(): void {
    if (this.#attempting) this.#context.waiters.endAttempt(this.#wanted.name)
    this.#attempting = false
  }

  #timeUp(): LockError {
    if (!this.#answered) return this.#bound.noAnswer()
    const waitedMs = performance.now() - this.#bound.started
    return new LockTimeoutError(this.#wanted.name, waitedMs, this.#holder ?? undefined)
  }
}

function grantedHold({ name, owner }: Unsent, result: AttemptResult & { readonly granted: true }): Hold {
  return toHold({ ...result, name, owner: owner! })
}

/** Gives back what an attempt was granted although nobody heard of it. */
async function releaseUnwanted(
  { handOffs, statementTimeoutMs, attempt: ask }: AcquireContext,
  attempt: Unsent,
  ambiguous: readonly Promise<AttemptResult>[],
): Promise<void> {
  let granted: (AttemptResult & { readonly granted: true }) | undefined
  let isInDoubt = false
  for (const answer of await Promise.allSettled(ambiguous)) {
    if (answer.status === 'rejected') isInDoubt ||= isUnknown(answer.reason)
    else if (answer.value.granted) granted = answer.value
    else isInDoubt ||= answer.value.ours === true
  }
  if (granted === undefined && !isInDoubt) return
  // Somebody else's statement can have the row locked at that very moment.
  await untilUnlocked(async () => {
    // Asked once more, by the owner id that the lost attempt had.
    const result = granted ?? (await ask({ ...attempt, ttlMs: 1000 }))
    if (!result.granted) return result.ours !== true
    return (await handOffs.release(grantedHold(attempt, result))) !== 'locked'
  }, statementTimeoutMs)
}

/** Whether a statement that failed so may have worked. */
function isUnknown(error: unknown): boolean {
  return !(error instanceof DatabaseError) || error.failure === 'connection'
}
