import { sleep } from '../../base/timing.ts'

/** However long one sleeps, clocks run at different rates, and are set: the database's is asked again by then. */
const LONGEST_SLEEP_MS = 60_000
/** Whoever asked so recently need not ask again. */
const FRESH_MS = 30_000

/** What is known of the database's clock, for all who wait for a time of it. */
export class DatabaseClock {
  readonly #ask: () => Promise<number>
  /** The database's time less performance.now(). Until the first answer, this process's clock stands for it. */
  #offset = Date.now() - performance.now()
  #askedAt = Number.NEGATIVE_INFINITY
  #asking: Promise<void> | undefined

  constructor(ask: () => Promise<number>) {
    this.#ask = ask
  }

  /** An estimate. What depends on it is judged again by the database. */
  now(): number {
    return performance.now() + this.#offset
  }

  /** An answer that has just come, and tells the time: that was so at some moment since it was asked for. */
  learn(now: number, sentAt: number): void {
    this.#offset = now - (sentAt + performance.now()) / 2
    this.#askedAt = sentAt
  }

  /** Until that time of the database's, or a little later. Rejects with the signal's reason. */
  async sleepUntil(time: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      const leftMs = time - this.now()
      if (leftMs <= 0) return
      await sleep(Math.min(leftMs, LONGEST_SLEEP_MS), signal)
      if (performance.now() - this.#askedAt > FRESH_MS && time > this.now()) await this.#refresh()
    }
  }

  /** Those who sleep long ask together. */
  #refresh(): Promise<void> {
    this.#asking ??= this.#refreshOnce().finally(() => {
      this.#asking = undefined
    })
    return this.#asking
  }

  async #refreshOnce(): Promise<void> {
    const sentAt = performance.now()
    this.learn(await this.#ask(), sentAt)
  }
}
