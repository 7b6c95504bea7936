import { DatabaseError } from '../base/errors.ts'
import type { Claim } from '../protocol/circles.ts'
import { type Hold, type Renewal, toHold } from '../protocol/store.ts'
import type { AnswerBound } from './answer-bound.ts'
import { type AcquireContext, acquire, type Granted, type Wanted } from './attempts.ts'
import { type Call, type Calls, TIME_OUT } from './calls.ts'
import type { Beat, Heartbeat, Renewable } from './heartbeat.ts'

export interface SeveralContext extends AcquireContext {
  readonly calls: Calls
  readonly heartbeat: Heartbeat
  /** The database is in this process: a busy caller keeps timers from firing for longer than a hand-off lasts. */
  readonly local: boolean
  renew(holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<Renewal[]>
}

/** One that is kept was lost while another one was asked for. */
const LOST = Symbol('lost')

/** What a caller asks for: all of these locks, or none. */
export interface WantedAll extends Omit<Wanted, 'name'> {
  /** Each once, in byte order: who waits for one has those before it, so that no two callers wait for each other. */
  readonly names: readonly string[]
}

/**
 * Tries all of them in one statement. If somebody is in the way, keeps those before that lock, waits for it as anybody does,
 * and tries the rest. One that it loses meanwhile it asks for again. Resolves with null if it is a try and somebody holds one of them.
 */
export async function acquireAll(
  context: SeveralContext,
  call: Call,
  wanted: WantedAll,
  bound: AnswerBound,
): Promise<Granted[] | null> {
  const acquisition = new AcquisitionOfAll(context, call, wanted, bound)
  let granted: Granted[] | null = null
  try {
    granted = await acquisition.untilAnswered()
    return granted
  } finally {
    if (granted === null) await acquisition.giveAllBack()
  }
}

/** One caller's way to several locks. */
class AcquisitionOfAll {
  readonly #context: SeveralContext
  readonly #call: Call
  readonly #wanted: WantedAll
  readonly #bound: AnswerBound
  readonly #ttlMs: number
  readonly #waits: boolean
  /** The first of the names, in their order. */
  #kept: KeptHold[] = []
  /** What is under way for it. */
  #asking: readonly Call[] = []
  readonly #givenBack: Promise<unknown>[] = []

  constructor(context: SeveralContext, call: Call, wanted: WantedAll, bound: AnswerBound) {
    this.#context = context
    this.#call = call
    this.#wanted = wanted
    this.#bound = bound
    this.#ttlMs = Math.min(wanted.ttlMs, wanted.maxHoldMs)
    this.#waits = wanted.waitMs !== null && wanted.waitMs > 0
  }

  async untilAnswered(): Promise<Granted[] | null> {
    const { names, waitMs } = this.#wanted
    for (;;) {
      this.#dropFromLost()
      const granted = await this.#tryRest()
      if (granted.length === names.length) return granted
      this.#keep(granted)
      if (this.#kept.length < names.length) {
        if (waitMs === null) return null
        this.#confirm()
        this.#keep(await this.#waitForNext())
      }
      const all = this.#kept.length === names.length ? await this.#complete() : undefined
      if (all !== undefined) return all
    }
  }

  /** Who is told that somebody has one of them does not find the others held by itself, unless the database takes long. */
  async giveAllBack(): Promise<void> {
    this.#giveBack(this.#letGo(0))
    if (this.#call.cancelled) return
    const given = Promise.allSettled(this.#givenBack)
    // An abort is told by what the call rejects with.
    await this.#call.race(given, this.#bound.patienceMs).catch(() => undefined)
  }

  /** Tries those that it does not have yet. Answers the first of them, up to the one that somebody has, and gives back the others. */
  async #tryRest(): Promise<Granted[]> {
    const { waiters } = this.#context
    const rest = this.#wanted.names.slice(this.#kept.length)
    // Behind others of this process there is nothing to try.
    const contended = this.#waits ? rest.findIndex((name) => waiters.contended(name, this.#wanted)) : -1
    const outcomes = await this.#ask(contended === -1 ? rest : rest.slice(0, contended), null)
    const granted = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : null))
    const missing = granted.indexOf(null)
    if (missing === -1) return granted as Granted[]
    const failure = outcomes.find((outcome) => outcome.status === 'rejected')
    const isOver = failure !== undefined && this.#wanted.waitMs === null
    this.#giveBack(granted.slice(isOver ? 0 : missing).filter((hold) => hold !== null))
    // Who waits has time to wait out a failure, and hears of it then if it stays.
    if (isOver) throw failure.reason
    return granted.slice(0, missing) as Granted[]
  }

  /** Of several, sent together, the attempts go in one statement. Ends early, with LOST, if one that is kept is lost. */
  async #ask(names: readonly string[], waitMs: number | null): Promise<PromiseSettledResult<Granted | null>[]> {
    const { calls } = this.#context
    const own = names.map(() => calls.begin(undefined))
    this.#asking = own
    const asked = names.map((name, index) =>
      acquire(this.#context, own[index]!, { ...this.#wanted, name, waitMs, claims: this.#claims }, this.#bound),
    )
    const all = Promise.allSettled(asked)
    try {
      return (await this.#call.race(all, Number.POSITIVE_INFINITY)) as PromiseSettledResult<Granted | null>[]
    } catch (reason) {
      for (const call of own) call.cancel(reason)
      for (const outcome of await all) {
        if (outcome.status === 'fulfilled' && outcome.value !== null) this.#giveBack([outcome.value])
      }
      throw reason
    } finally {
      this.#asking = []
      for (const call of own) calls.end(call)
    }
  }

  /** What it has got so far, too. */
  readonly #claims = (): Claim[] => [
    ...(this.#wanted.claims?.() ?? []),
    ...this.#kept.filter(({ isLost }) => !isLost).map(({ name, token }) => ({ name, token: `${token}` })),
  ]

  /** None if one that is kept was lost meanwhile. */
  async #waitForNext(): Promise<Granted[]> {
    const { names, waitMs } = this.#wanted
    const [outcome] = await this.#ask([names[this.#kept.length]!], waitMs)
    if (outcome?.status === 'rejected') {
      if (outcome.reason === LOST) return []
      throw outcome.reason
    }
    // Null is the answer to a try, and this one waits.
    return [outcome!.value!]
  }

  /** What was handed over lasts for a moment: too short for another wait, however busy this process is meanwhile. */
  #confirm(): void {
    for (const kept of this.#kept) if (kept.granted.unconfirmed) this.#context.heartbeat.add(kept, 0)
  }

  /** Renews them from now on, since there is more to wait for. */
  #keep(granted: readonly Granted[]): void {
    const { heartbeat, local } = this.#context
    for (const each of granted) {
      const kept = new KeptHold(each, this.#ttlMs, () => {
        for (const call of this.#asking) call.cancel(LOST)
      })
      this.#kept.push(kept)
      heartbeat.add(kept, each.unconfirmed && local ? 0 : each.remainingMs)
    }
  }

  /**
   * All are there: renewed together, they last for their whole ttl from now, and what was handed over is confirmed. Undefined if
   * one of them was lost meanwhile.
   */
  async #complete(): Promise<Granted[] | undefined> {
    const sentAt = performance.now()
    const asked = this.#kept.map((kept) => ({ ...toHold(kept), ttlMs: this.#ttlMs }))
    try {
      const renewals = await this.#call.race(this.#context.renew(asked), this.#bound.patienceMs)
      if (renewals !== TIME_OUT)
        for (const [index, kept] of this.#kept.entries()) kept.onRenewal(renewals[index]!, sentAt)
    } catch (error) {
      // No answer is no loss: they last for as long as is known.
      if (this.#call.cancelled || !(error instanceof DatabaseError) || error.failure === 'other') throw error
    }
    this.#call.throwIfCancelled()
    if (this.#kept.some((kept) => kept.isLost)) return undefined
    const waitedMs = performance.now() - this.#bound.started
    return this.#letGo(0).map((granted) => ({ ...granted, waitedMs }))
  }

  /** Those before it are still held in order; it is asked for again, and what came after it. */
  #dropFromLost(): void {
    const lost = this.#kept.findIndex((kept) => kept.isLost)
    if (lost !== -1) this.#giveBack(this.#letGo(lost))
  }

  /** Of those from this index on. */
  #letGo(from: number): Granted[] {
    const kept = this.#kept.splice(from)
    for (const each of kept) {
      each.end()
      this.#context.heartbeat.remove(each)
    }
    return kept.map(({ granted }) => granted)
  }

  #giveBack(granted: readonly Granted[]): void {
    if (granted.length === 0) return
    const giving = Promise.all(granted.map((hold) => giveBack(this.#context, hold)))
    this.#givenBack.push(giving)
    this.#context.background('giving back locks that were acquired in vain', giving)
  }
}

/** A hold whose caller waits for another one. */
class KeptHold implements Renewable {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  readonly slot: number | undefined
  granted: Granted
  beat: Beat | undefined
  readonly #ttlMs: number
  readonly #onLost: () => void
  #state: 'kept' | 'lost' | 'over' = 'kept'

  constructor(granted: Granted, ttlMs: number, onLost: () => void) {
    this.name = granted.name
    this.owner = granted.owner
    this.token = granted.token
    this.slot = granted.slot
    this.granted = granted
    this.#ttlMs = ttlMs
    this.#onLost = onLost
  }

  get isLost(): boolean {
    return this.#state === 'lost' || performance.now() >= this.#deadline
  }

  renewalTtlMs(): number | null {
    return this.#state === 'kept' ? this.#ttlMs : null
  }

  onRenewal({ outcome, remainingMs }: Renewal, sentAt: number): void {
    if (this.#state !== 'kept') return
    if (outcome === 'lost') {
      this.#state = 'lost'
      this.#onLost()
      return
    }
    // Both deadlines hold, because no renewal shortens a lease.
    if (sentAt + remainingMs > this.#deadline) this.granted = { ...this.granted, sentAt, remainingMs }
    if (outcome === 'renewed') this.granted = { ...this.granted, unconfirmed: false }
  }

  /** Neither lost nor longer trusted: the next renewal tells. */
  onUnknown(): void {}

  end(): void {
    this.#state = 'over'
  }

  get #deadline(): number {
    return this.granted.sentAt + this.granted.remainingMs
  }
}

async function giveBack({ handOffs, waiters, statementTimeoutMs }: AcquireContext, hold: Granted): Promise<void> {
  const { owner, sentAt, remainingMs } = hold
  try {
    await handOffs.releaseRepeatedly(() => toHold(hold), {
      deadline: sentAt + remainingMs,
      lockedMs: statementTimeoutMs,
    })
  } finally {
    // Not before: whoever hears of the hold meanwhile would think that nobody has it, and pass it on.
    waiters.ended(owner)
  }
}
