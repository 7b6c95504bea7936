/** Two looks at the database are at least this far apart, whatever they were asked for. */
const SHORTEST_PAUSE_MS = 4

/**
 * Asks again and again, one question at a time, at the times that it is told. It keeps the process alive only while
 * somebody waits, because only then is it told.
 */
export class Poll {
  readonly #look: () => Promise<void>
  #timer: NodeJS.Timeout | undefined
  #dueAt = Number.POSITIVE_INFINITY
  #lookedAt = 0
  #looking = false

  /** `look` must not reject; it says when the next look is due by calling `by`. */
  constructor(look: () => Promise<void>) {
    this.#look = look
  }

  /** There will be a look at this time of performance.now(), or before. */
  by(time: number): void {
    if (time >= this.#dueAt) return
    this.#dueAt = time
    if (!this.#looking) this.#schedule()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#dueAt = Number.POSITIVE_INFINITY
  }

  #schedule(): void {
    clearTimeout(this.#timer)
    if (this.#dueAt === Number.POSITIVE_INFINITY) return
    const at = Math.max(this.#dueAt, this.#lookedAt + SHORTEST_PAUSE_MS)
    this.#timer = setTimeout(() => void this.#now(), Math.max(0, at - performance.now()))
  }

  async #now(): Promise<void> {
    this.#looking = true
    this.#dueAt = Number.POSITIVE_INFINITY
    this.#lookedAt = performance.now()
    await this.#look()
    this.#looking = false
    this.#schedule()
  }
}
