import type { DatabaseError } from '../base/errors.ts'
import { bounded, noAnswer, noAnswerIn } from '../base/timing.ts'
import { type Call, TIME_OUT } from './calls.ts'

/** Beyond its wait, a call may take this long to find out what the database says. */
const ANSWER_MS = 1000
/** The statements of a call have limits of their own. They know more of what is wrong, so they have a moment to tell it. */
const MOMENT_MS = 100

/**
 * How long one call of the user's may take, whatever keeps the database from answering: one statement's time, or, if it waits,
 * its wait and a second.
 */
export class AnswerBound {
  readonly #statementTimeoutMs: number
  readonly #limitMs: number
  /** A time of performance.now(). */
  readonly started = performance.now()

  /** `waitMs` is null for what waits for nobody. */
  constructor(waitMs: number | null, statementTimeoutMs: number) {
    this.#statementTimeoutMs = statementTimeoutMs
    this.#limitMs = waitMs === null ? statementTimeoutMs : waitMs + ANSWER_MS
  }

  get leftMs(): number {
    return Math.max(0, this.started + this.#limitMs - performance.now())
  }

  /** For one statement. */
  get patienceMs(): number {
    return Math.min(this.#statementTimeoutMs, this.leftMs)
  }

  /** Nothing was heard. Of the two limits the shorter one is told. */
  noAnswer(inTransaction = false): DatabaseError {
    const explain = inTransaction ? noAnswerIn : noAnswer
    return this.#limitMs < this.#statementTimeoutMs
      ? explain(this.#limitMs, 'the wait and a second more')
      : explain(this.#statementTimeoutMs)
  }

  /** What `promise` resolves with in time. */
  async race<T>(call: Call, promise: Promise<T>): Promise<T> {
    const answer = await call.race(promise, this.leftMs)
    if (answer === TIME_OUT) throw this.noAnswer()
    return answer
  }

  /** Settles as `promise` does in time; what it still does after that is done unheard. */
  within<T>(promise: Promise<T>, late: () => Error = () => this.noAnswer()): Promise<T> {
    return bounded(promise, this.leftMs + MOMENT_MS, late)
  }

  /** The same of what is asked in a transaction of the caller's. */
  withinTransaction<T>(answer: Promise<T>): Promise<T> {
    return this.within(answer, () => this.noAnswer(true))
  }
}
