import { DatabaseError } from '../base/errors.ts'
import { backoff, untilUnlocked } from '../base/timing.ts'
import type {
  DowngradeResult,
  Grant,
  Hold,
  Promotion,
  Release,
  ReleaseResult,
  ResizeResult,
} from '../protocol/store.ts'

export interface HandOffContext {
  release(hold: Release): Promise<ReleaseResult>
  promote(name: string): Promise<Promotion>
  downgrade(hold: Hold): Promise<DowngradeResult>
  resize(name: string, permits: number): Promise<ResizeResult>
  /** Work that nobody awaits; `close` does. */
  background(during: string, work: Promise<unknown>): void
}

/** Those of this process who wait, as far as hand-offs concern them. */
export interface Recipients {
  /** Whether callers of this process wait for that lock. */
  waitFor(name: string): boolean
  /** A hand-off, maybe to this process; `sentAt` is a time of performance.now() from before it was asked for. */
  take(grant: Grant, sentAt: number): void
  /** There was a hand-off, and the engine could not tell to whom. */
  pollNow(): void
}

/** How a release is repeated. */
export interface Repetition {
  /** When the hold has run out, as a time of performance.now(). */
  readonly deadline: number
  /** For how long a row is tried again that a transaction has locked. */
  readonly lockedMs: number
  onFailure?(error: unknown, isRepeated: boolean): void
  /** Nothing is repeated any more. */
  isOver?(): boolean
  /** Somebody waits for the answer: the process has to live for it. */
  isAwaited?(): boolean
}

/**
 * What a locked row keeps from being done is tried again for so long. From then on the polls of those who wait find a lock
 * that was not handed over, and a ticket that stays in the queue passes on what it is handed.
 */
export const UNTIL_UNLOCKED_MS = 2000

/** How locks leave this process: each goes to the first who waits for it, wherever that is. */
export class HandOffs {
  readonly #context: HandOffContext
  /** Set once, by those who wait, who hand over themselves what they do not need any more. */
  recipients: Recipients | undefined
  #closed = false

  constructor(context: HandOffContext) {
    this.#context = context
  }

  async release(hold: Hold): Promise<ReleaseResult['outcome']> {
    const sentAt = performance.now()
    const awaited = this.recipients?.waitFor(hold.name) === true
    const { outcome, handedOver, grants, promoteLater } = await this.#context.release(
      awaited ? { ...hold, awaited } : hold,
    )
    this.#tell(hold.name, handedOver, grants, sentAt)
    if (promoteLater) this.promoteLater(hold.name)
    return outcome
  }

  /**
   * The same, and while the database cannot be asked, again until the hold has run out: others need not wait for that if it can
   * be helped. 'locked' if a transaction has had the row locked for all that time. Each time, `find` says where the hold is.
   */
  async releaseRepeatedly(
    find: () => Hold | Promise<Hold>,
    { deadline, lockedMs, onFailure, isOver, isAwaited }: Repetition,
  ): Promise<ReleaseResult['outcome']> {
    for (let failures = 1; ; failures++) {
      try {
        let outcome: ReleaseResult['outcome'] = 'locked'
        await untilUnlocked(async () => {
          outcome = await this.release(await find())
          return outcome !== 'locked'
        }, lockedMs)
        return outcome
      } catch (error) {
        const mayPass = error instanceof DatabaseError && error.failure !== 'other'
        const isRepeated = mayPass && performance.now() < deadline && isOver?.() !== true
        onFailure?.(error, isRepeated)
        if (!isRepeated) throw error
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, backoff(failures))
        if (isAwaited?.() !== true) timer.unref()
      })
    }
  }

  /** Those who are next, and want to share the lock, come in with it. */
  async downgrade(hold: Hold): Promise<DowngradeResult> {
    const sentAt = performance.now()
    const result = await this.#context.downgrade(hold)
    if (result.outcome === 'downgraded') this.#tell(hold.name, true, result.grants, sentAt)
    return result
  }

  async resize(name: string, permits: number): Promise<ResizeResult['outcome']> {
    const sentAt = performance.now()
    const { outcome, grants } = await this.#context.resize(name, permits)
    this.#tell(name, outcome === 'resized', grants, sentAt)
    return outcome
  }

  /** Gives a lock that has room to those who wait for it. */
  async promote(name: string): Promise<Promotion['outcome']> {
    const sentAt = performance.now()
    const { outcome, grants } = await this.#context.promote(name)
    this.#tell(name, outcome === 'handed over', grants, sentAt)
    return outcome
  }

  /** The same as soon as a transaction that has the row locked lets it, in the background. */
  promoteLater(name: string): void {
    const promoting = untilUnlocked(
      async () => (await this.promote(name)) !== 'locked' || this.#closed,
      UNTIL_UNLOCKED_MS,
    )
    this.#context.background(`handing over ${JSON.stringify(name)}`, promoting)
  }

  /** To the next: nobody here wants it. Whoever joins or leaves the queue has the row locked for a moment. */
  passOn(hold: Hold): void {
    const passing = untilUnlocked(async () => (await this.release(hold)) !== 'locked', UNTIL_UNLOCKED_MS)
    this.#context.background(`passing on ${JSON.stringify(hold.name)}`, passing)
  }

  close(): void {
    this.#closed = true
  }

  #tell(name: string, handedOver: boolean, grants: readonly Grant[], sentAt: number): void {
    for (const grant of grants) this.recipients?.take(grant, sentAt)
    if (handedOver && grants.length === 0 && this.recipients?.waitFor(name) === true) this.recipients.pollNow()
  }
}
