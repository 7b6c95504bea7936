import { DenseSet } from '../base/dense-set.ts'
import { type Hold, type Renewal, toHold } from '../protocol/store.ts'

/** A lease as its renewal sees it. Times are of performance.now(). */
export interface Renewable extends Omit<Hold, 'slot'> {
  slot?: number | undefined
  /** Kept by the heartbeat. */
  beat?: Beat | undefined
  /** How far to move the expiry, from now; null when the lease is not to be renewed any more. */
  renewalTtlMs(): number | null
  /** The outcome of a renewal that was sent at `sentAt`. */
  onRenewal(renewal: Renewal, sentAt: number): void
  /** A renewal got no answer, or the database's error. The lease is neither lost nor longer trusted because of it. */
  onUnknown(cause: unknown): void
}

/** A lease is renewed when this part of its ttl has passed: two more tries fit in before it runs out. */
const RENEW_AFTER = 1 / 3
/** A renewal that failed or found the row locked is repeated after this part of the ttl. */
const RETRY_AFTER = 1 / 12
/** Leases due within this part of their ttl are renewed along with those that are due, so that they fall into step. */
const ALONG_WITHIN = 1 / 6

/** When a lease is renewed. */
export class Beat {
  place: number | undefined
  sentAt: number | null = null

  constructor(
    readonly lease: Renewable,
    public dueAt: number,
  ) {}
}

/**
 * Renews all leases of this process: one statement for all that are due. It never keeps the process alive: if nothing else
 * does, there is no work for which the locks would have to be kept.
 */
export class Heartbeat {
  readonly #renew: (holds: readonly (Hold & { ttlMs: number })[]) => Promise<Renewal[]>
  readonly #beats = new DenseSet<Beat>()
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY

  constructor(renew: (holds: readonly (Hold & { ttlMs: number })[]) => Promise<Renewal[]>) {
    this.#renew = renew
  }

  /** For the first time when RENEW_AFTER of `remainingMs` have passed; at once if there are none. */
  add(lease: Renewable, remainingMs: number): void {
    const dueAt = performance.now() + remainingMs * RENEW_AFTER
    if (lease.beat !== undefined) this.#beats.delete(lease.beat)
    lease.beat = new Beat(lease, dueAt)
    this.#beats.add(lease.beat)
    if (remainingMs === 0) this.#beat()
    else if (dueAt < this.#timerAt) this.#wakeAt(dueAt)
  }

  remove(lease: Renewable): void {
    // While there are others, the timer is left as it is: what it finds not to be due it plans anew.
    if (lease.beat !== undefined && this.#beats.delete(lease.beat) && this.#beats.size === 0) this.stop()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timerAt = Number.POSITIVE_INFINITY
    this.#beats.clear()
  }

  #schedule(): void {
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt } of this.#beats) next = Math.min(next, dueAt)
    if (next !== this.#timerAt) this.#wakeAt(next)
  }

  #wakeAt(time: number): void {
    clearTimeout(this.#timer)
    this.#timerAt = time
    if (time === Number.POSITIVE_INFINITY) return
    this.#timer = setTimeout(() => this.#beat(), Math.max(0, time - performance.now()))
    this.#timer.unref()
  }

  #beat(): void {
    this.#timerAt = Number.POSITIVE_INFINITY
    const now = performance.now()
    const batch: { lease: Renewable; beat: Beat; ttlMs: number }[] = []
    for (const beat of this.#beats) {
      const { lease } = beat
      const ttlMs = lease.renewalTtlMs()
      if (ttlMs === null) {
        this.#beats.delete(beat)
      } else if (beat.dueAt <= now + ttlMs * ALONG_WITHIN) {
        if (beat.sentAt !== null) lease.onUnknown(new Error('the renewal before this one has not been answered yet'))
        beat.sentAt = now
        // If there is no answer until then, another is sent beside it.
        beat.dueAt = now + ttlMs * RENEW_AFTER
        batch.push({ lease, beat, ttlMs })
      }
    }
    if (batch.length > 0) void this.#send(batch, now)
    this.#schedule()
  }

  async #send(batch: readonly { lease: Renewable; beat: Beat; ttlMs: number }[], sentAt: number): Promise<void> {
    try {
      const renewals = await this.#renew(batch.map(({ lease, ttlMs }) => ({ ...toHold(lease), ttlMs })))
      batch.forEach(({ lease, beat, ttlMs }, index) => {
        const renewal = renewals[index]!
        if (beat.sentAt === sentAt) beat.sentAt = null
        // What was handed over lasts for less than its ttl until it is renewed.
        const againMs = Math.min(ttlMs, renewal.remainingMs) * RETRY_AFTER
        if (renewal.outcome === 'held') beat.dueAt = performance.now() + againMs
        lease.onRenewal(renewal, sentAt)
        if (lease.renewalTtlMs() === null) this.#beats.delete(beat)
      })
    } catch (error) {
      for (const { lease, beat, ttlMs } of batch) {
        if (beat.sentAt === sentAt) beat.sentAt = null
        beat.dueAt = Math.min(beat.dueAt, performance.now() + ttlMs * RETRY_AFTER)
        lease.onUnknown(error)
      }
    }
    this.#schedule()
  }
}
