import { isDeepStrictEqual } from 'node:util'
import { MAX_TIMER_MS } from '../../base/duration.ts'
import { LockError } from '../../base/errors.ts'
import { backoff, sleep } from '../../base/timing.ts'
import type { Mark, NewMark } from '../../protocol/marks.ts'
import type { DatabaseClock } from './database-clock.ts'
import { type Due, dueAt, type Guarantee, type JobState, sinceOf } from './due.ts'
import { type Schedule, type ScheduleTerms, toSchedule } from './schedule.ts'

export interface JobTerms {
  readonly name: string
  readonly schedule: Schedule
  readonly guarantee: Guarantee
  readonly missed: 'skip' | 'once'
}

/** What a runner needs of a lease. */
export interface JobLease {
  readonly token: bigint
  release(): Promise<boolean>
  /** Rejects if the lease is lost. */
  mark(mark: Omit<NewMark, 'token'>): Promise<void>
}

export interface RunnerContext<Lease extends JobLease> {
  readonly clock: DatabaseClock
  /** What the database keeps of the job, and when. */
  read(name: string): Promise<{ readonly now: number; readonly marks: readonly Mark[] }>
  write(mark: NewMark): Promise<void>
  /** Waits for the job's lock until the signal aborts, with whose reason it rejects. */
  acquire(name: string, signal: AbortSignal): Promise<Lease>
  /** Runs `body` under the lease, which it releases. Rejects if that was lost. */
  run(lease: Lease, body: () => Promise<void>): Promise<void>
  warn(message: string): void
  failed(during: string, cause: unknown): void
}

export interface Run<Lease> {
  readonly lease: Lease
  readonly scheduledAt: number
  readonly lastSuccess: number | null
}

/** Parts of a job's mark. */
const STATE = 'state'
const SCHEDULE = 'schedule'
/** After that a body that failed is tried again at the latest, for as long as its instant is due. */
const LONGEST_RETRY_MS = 60_000

interface Look {
  readonly now: number
  readonly state: JobState | undefined
}

/** One job in one process: waits for its instants, and for its lock at each of them, until it is stopped. */
export class JobRunner<Lease extends JobLease> {
  readonly #context: RunnerContext<Lease>
  readonly #terms: JobTerms
  readonly #body: (run: Run<Lease>) => Promise<unknown>
  readonly #stop = new AbortController()
  #schedule: Schedule
  /** When it was deployed here, in microseconds: of several schedules the one that was deployed last counts. */
  #deployedAt = 0n
  #since = Number.POSITIVE_INFINITY
  #claimed: number | undefined
  #lease: Lease | undefined
  readonly #ended: Promise<void>

  constructor(context: RunnerContext<Lease>, terms: JobTerms, body: (run: Run<Lease>) => Promise<unknown>) {
    this.#context = context
    this.#terms = terms
    this.#body = body
    this.#schedule = terms.schedule
    this.#ended = this.#untilStopped()
  }

  /** Of the run under way. */
  get lease(): Lease | undefined {
    return this.#lease
  }

  /** The next instant, as far as this process knows; null if it is stopped, or if there is none. */
  next(): number | null {
    if (this.#stop.signal.aborted) return null
    return this.#schedule.next(Math.max(this.#context.clock.now(), this.#claimed ?? Number.NEGATIVE_INFINITY))
  }

  /** Begins nothing more. Resolves when the run under way has ended. */
  stop(): Promise<void> {
    this.#stop.abort(STOPPED)
    return this.#ended
  }

  /** It begins outside of the call that made it, which may be a body of run. */
  async #untilStopped(): Promise<void> {
    let failures = 0
    let isDeployed = false
    while (!this.#stop.signal.aborted) {
      try {
        if (isDeployed) await this.#turn()
        else await this.#deploy()
        isDeployed = true
        failures = 0
      } catch (error) {
        if (this.#stop.signal.aborted) return
        this.#context.failed(`the job ${JSON.stringify(this.#terms.name)}`, error)
        failures++
        // Stopped meanwhile: then the loop ends.
        await sleep(backoff(failures), this.#stop.signal).catch(() => undefined)
      }
    }
  }

  /** Tells others how it is to run from now on. */
  async #deploy(): Promise<void> {
    const { name, schedule, missed } = this.#terms
    const { now, marks } = await this.#read()
    this.#since = sinceOf(now, schedule, missed, stateOf(marks))
    this.#deployedAt = BigInt(Math.round(now * 1000))
    const before = scheduleOf(marks)
    if (before !== undefined && isDeepStrictEqual(before.terms, schedule.terms)) return
    if (before !== undefined) {
      this.#context.warn(
        `the job ${JSON.stringify(name)} was to run ${described(before.terms)}; from now on it runs ${described(schedule.terms)}, as it was deployed last`,
      )
    }
    const value = JSON.stringify(schedule.terms)
    await this.#context.write({ kind: 'job', name, part: SCHEDULE, value, token: this.#deployedAt, keepMs: null })
  }

  /** Waits for the next instant that is due, and sees to it. */
  async #turn(): Promise<void> {
    const due = this.#dueAt(await this.#look())
    if (due.instant === null) {
      await this.#context.clock.sleepUntil(due.at ?? Number.POSITIVE_INFINITY, this.#stop.signal)
      return
    }
    const lease = await this.#acquireUntil(due.until)
    if (lease === undefined) return
    let isTaken = false
    try {
      // Others had the lock meanwhile.
      const look = await this.#look()
      const still = this.#dueAt(look)
      if (still.instant === null || this.#stop.signal.aborted) return
      isTaken = true
      await this.#run(lease, still.instant, look)
    } finally {
      if (!isTaken) await lease.release()
    }
  }

  /** Undefined if the instant is not due any more. */
  async #acquireUntil(until: number): Promise<Lease | undefined> {
    const over = new AbortController()
    const leftMs = until - this.#context.clock.now()
    const timer = leftMs <= MAX_TIMER_MS ? setTimeout(() => over.abort(OVER), Math.max(0, leftMs)) : undefined
    try {
      return await this.#context.acquire(this.#terms.name, AbortSignal.any([over.signal, this.#stop.signal]))
    } catch (error) {
      if (error === OVER || error === STOPPED) return undefined
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  async #run(lease: Lease, instant: number, { now, state }: Look): Promise<void> {
    const { name, guarantee } = this.#terms
    const lastSuccess = state?.lastSuccess ?? null
    const failures = state?.claimed === instant ? state.failures : 0
    let current: JobState = { claimed: instant, done: false, failures, retryAt: now, lastSuccess }
    const keep = async (change: Partial<JobState>) => {
      current = { ...current, ...change }
      await lease.mark({ kind: 'job', name, part: STATE, value: JSON.stringify(current), keepMs: null })
    }
    this.#lease = lease
    try {
      await this.#context.run(lease, async () => {
        await keep({})
        this.#claimed = instant
        try {
          await this.#body({ lease, scheduledAt: instant, lastSuccess })
        } catch (error) {
          if (guarantee === 'at-least-once') {
            // Whoever takes it up again, it is not to spin.
            const retryAt = this.#context.clock.now() + backoff(failures + 1, LONGEST_RETRY_MS)
            await keep({ failures: failures + 1, retryAt })
          }
          throw error
        }
        await keep({ done: true, lastSuccess: this.#context.clock.now() })
      })
    } catch (error) {
      this.#context.failed(`a run of the job ${JSON.stringify(name)}`, error)
    } finally {
      this.#lease = undefined
    }
  }

  #dueAt({ now, state }: Look): Due {
    const { guarantee } = this.#terms
    return dueAt(now, { schedule: this.#schedule, guarantee, since: this.#since }, state)
  }

  async #look(): Promise<Look> {
    const { now, marks } = await this.#read()
    const deployed = scheduleOf(marks)
    if (deployed !== undefined && !isDeepStrictEqual(deployed.terms, this.#schedule.terms)) this.#adopt(deployed)
    const state = stateOf(marks)
    this.#claimed = state?.claimed
    return { now, state }
  }

  /** Another process has come since, with another schedule. */
  #adopt({ terms, deployedAt }: Deployed): void {
    // Of two that came in the same moment, the one that wrote last.
    if (deployedAt < this.#deployedAt) return
    const before = this.#schedule.terms
    this.#schedule = toSchedule(terms)
    this.#context.warn(
      `the job ${JSON.stringify(this.#terms.name)} runs ${described(terms)} and not ${described(before)}, since another process has been deployed later with that`,
    )
  }

  async #read(): Promise<{ readonly now: number; readonly marks: readonly Mark[] }> {
    const sentAt = performance.now()
    const read = await this.#context.read(this.#terms.name)
    this.#context.clock.learn(read.now, sentAt)
    return read
  }
}

interface Deployed {
  readonly terms: ScheduleTerms
  readonly deployedAt: bigint
}

/** Reasons of aborts that are nobody's failure. */
const STOPPED = new LockError('INVALID_ARGUMENT', 'the job was stopped')
const OVER = new LockError('LOCK_TIMEOUT', 'the time of the job is over')

function stateOf(marks: readonly Mark[]): JobState | undefined {
  const value = marks.find(({ part }) => part === STATE)?.value
  return value == null ? undefined : (JSON.parse(value) as JobState)
}

function scheduleOf(marks: readonly Mark[]): Deployed | undefined {
  const mark = marks.find(({ part }) => part === SCHEDULE)
  return mark?.value == null ? undefined : { terms: JSON.parse(mark.value) as ScheduleTerms, deployedAt: mark.token }
}

function described(terms: ScheduleTerms): string {
  if ('cron' in terms) return `at ${JSON.stringify(terms.cron)} in ${terms.timezone}`
  return `every ${terms.every} ms${terms.from === 0 ? '' : ` from ${new Date(terms.from).toISOString()}`}`
}
