/** Taken now, since fake timers of tests may replace them later: what is due at once is no matter of time. */
const { setImmediate, clearImmediate } = globalThis

/**
 * Asks again and again, one question at a time, at the times that it is told. It keeps the process alive only while
 * somebody waits, because only then is it told.
 */
export class Poll {
  readonly #ask: () => Promise<void>
  readonly #apartMs: number
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined
  #dueAt = Number.POSITIVE_INFINITY
  #askedAt = 0
  #asking = false

  /**
   * `ask` must not reject; it says when the next question is due by calling `by`. From one to the next pass at least `apartMs`,
   * whatever they were asked for.
   */
  constructor(ask: () => Promise<void>, apartMs: number) {
    this.#ask = ask
    this.#apartMs = apartMs
  }

  /** It is asked at this time of performance.now(), or before. */
  by(time: number): void {
    if (time >= this.#dueAt) return
    this.#dueAt = time
    if (!this.#asking) this.#schedule()
  }

  /** Asks in this very turn of the event loop; or as soon as may be, if there is one under way or was one just now. */
  atOnce(): void {
    const now = performance.now()
    if (this.#asking || now < this.#askedAt + this.#apartMs) this.by(now)
    else void this.#now()
  }

  stop(): void {
    this.#unschedule()
    this.#dueAt = Number.POSITIVE_INFINITY
  }

  #unschedule(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
  }

  #schedule(): void {
    this.#unschedule()
    if (this.#dueAt === Number.POSITIVE_INFINITY) return
    const pauseMs = Math.max(this.#dueAt, this.#askedAt + this.#apartMs) - performance.now()
    // No timer fires in less than a millisecond.
    if (pauseMs <= 0) this.#immediate = setImmediate(() => void this.#now())
    else this.#timer = setTimeout(() => void this.#now(), pauseMs)
  }

  async #now(): Promise<void> {
    this.#asking = true
    this.#unschedule()
    this.#dueAt = Number.POSITIVE_INFINITY
    this.#askedAt = performance.now()
    await this.#ask()
    this.#asking = false
    this.#schedule()
  }
}
