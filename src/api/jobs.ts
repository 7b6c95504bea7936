import { inspect } from 'node:util'
import { type Duration, toMilliseconds } from '../base/duration.ts'
import { LockError } from '../base/errors.ts'
import { DatabaseClock } from '../process/jobs/database-clock.ts'
import { type JobLease, JobRunner, type JobTerms, type RunnerContext } from '../process/jobs/runner.ts'
import { type Schedule, toSchedule } from '../process/jobs/schedule.ts'
import { Batches } from '../process/store/batches.ts'
import type { Mark } from '../protocol/marks.ts'
import type { Store } from '../protocol/store.ts'
import type { Lease, LeaseHandle } from './lease.ts'
import { checkOptions, type LockOptions, refuseMode } from './options.ts'
import { heldAround, outsideRuns } from './reentry.ts'

/** How a job is run. */
export interface JobOptions extends Pick<LockOptions, 'ttl' | 'maxHold' | 'takeover' | 'metadata'> {
  /**
   * `'at-most-once'`, the default: an instant counts as taken before its run begins, whatever becomes of that. `'at-least-once'`: when the
   * run has succeeded; one that has failed, or whose process was killed, is taken up again, here or elsewhere, until the next
   * instant comes.
   */
  readonly guarantee?: 'at-most-once' | 'at-least-once' | undefined
  /**
   * What becomes of instants at which no process was there: nothing (`'skip'`, the default), or one run for the last of them when
   * a process comes (`'once'`). A job that has never run has missed nothing.
   */
  readonly missed?: 'skip' | 'once' | undefined
}

export interface EveryOptions extends JobOptions {
  /** From when the periods are counted: a Date, or milliseconds since 1970. Default: 1970, in UTC. */
  readonly from?: Date | number | undefined
}

export interface CronOptions extends JobOptions {
  /** In which the expression is read, as `'Europe/Berlin'`. Default `'UTC'`, which is the same for all processes. */
  readonly timezone?: string | undefined
}

/** What a run of a job is given. */
export interface JobRun<Tx> {
  /** Guards its writes. Released after the run. */
  readonly lease: Lease<Tx>
  /** The instant, by the database's clock. */
  readonly scheduledAt: Date
  /** The lease's: aborts when that is lost. */
  readonly signal: AbortSignal
  /** When a run of this job last succeeded; null if none ever has. */
  readonly lastSuccess: Date | null
}

/** A job as one process takes part in it. It keeps the process alive until it is stopped. */
export interface Job {
  readonly name: string
  /** A run is under way in this process. */
  readonly running: boolean
  /** When it is to run next, as far as this process knows; null if it is stopped. */
  next(): Date | null
  /** Begins no more runs here. Resolves when the run under way has ended; at once if that run calls it. */
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface JobsContext<Tx> {
  readonly store: Store<Tx>
  /** Of leases, if a job does not say. */
  readonly ttlMs: number
  acquire(name: string, options: LockOptions): Promise<LeaseHandle<Tx>>
  run<T>(lease: LeaseHandle<Tx>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  ready(): Promise<void>
  assertOpen(): void
  /** INVALID_ARGUMENT if a lease could not be had so. */
  check(name: string, options: LockOptions): void
  /** Each message once. */
  warn(message: string): void
  failed(during: string, cause: unknown): void
}

type Body<Tx> = (run: JobRun<Tx>) => unknown

const SHORTEST_PERIOD_MS = 100
const LONGEST_PERIOD_MS = 366 * 24 * 60 * 60 * 1000
/** A dead process keeps others from a job for the ttl of its lease: so it is no longer than that part of what is between instants. */
const TTL_PART = 1 / 2
/** But a busy process must not lose its lease. */
const SHORTEST_TTL_MS = 1000

/** The jobs of one instance. */
export class Jobs<Tx> {
  readonly #context: JobsContext<Tx>
  readonly #running = new Map<string, Job>()
  readonly #clock: DatabaseClock
  readonly #reads: Batches<{ readonly name: string }, { readonly now: number; readonly marks: readonly Mark[] }>

  constructor(context: JobsContext<Tx>) {
    this.#context = context
    const { store } = context
    this.#clock = new DatabaseClock(async () => (await store.readMarks('job', [''], true)).now)
    // Many are due at the same moment.
    this.#reads = new Batches(async (asked) => {
      const { now, marks } = await store.readMarks(
        'job',
        asked.map(({ name }) => name),
      )
      return asked.map(({ name }) => ({ now, marks: marks.filter((mark) => mark.name === name) }))
    })
  }

  every(period: Duration, name: string, options: EveryOptions, body: Body<Tx>): Job {
    const every = toMilliseconds('the period of a job', period, { min: SHORTEST_PERIOD_MS, max: LONGEST_PERIOD_MS })
    checkOptions(options)
    const { from = 0, ...rest } = options
    const fromMs = from instanceof Date ? from.getTime() : from
    if (!Number.isSafeInteger(fromMs)) {
      throw new LockError(
        'INVALID_ARGUMENT',
        `from must be a Date, or milliseconds since 1970, not ${inspect(from, { depth: 0 })}`,
      )
    }
    return this.#begin(toSchedule({ every, from: fromMs }), name, rest, body)
  }

  cron(expression: string, name: string, options: CronOptions, body: Body<Tx>): Job {
    checkOptions(options)
    const { timezone = 'UTC', ...rest } = options
    if (typeof expression !== 'string' || typeof timezone !== 'string') {
      throw new LockError('INVALID_ARGUMENT', 'cron takes an expression and a time zone as strings')
    }
    return this.#begin(toSchedule({ cron: expression, timezone }), name, rest, body)
  }

  /** Begins no more runs. Those under way end by themselves. */
  close(): void {
    for (const job of this.#running.values()) void job.stop()
  }

  #begin(schedule: Schedule, name: string, options: JobOptions, body: Body<Tx>): Job {
    const context = this.#context
    context.assertOpen()
    const { guarantee = 'at-most-once', missed = 'skip', ...lockOptions } = options
    refuseMode(options, 'a job', 'its runs exclude each other')
    context.check(name, lockOptions)
    checkOneOf('guarantee', guarantee, ['at-most-once', 'at-least-once'])
    checkOneOf('missed', missed, ['skip', 'once'])
    if (typeof body !== 'function') {
      throw new LockError(
        'INVALID_ARGUMENT',
        'a job takes a function as its last argument: every("15m", name, {}, fn), or cron(expression, name, {}, fn)',
      )
    }
    if (this.#running.has(name)) {
      throw new LockError(
        'INVALID_ARGUMENT',
        `there is a job ${JSON.stringify(name)} in this process already: stop() it`,
      )
    }
    const acquire: RunnerContext<LeaseHandle<Tx>>['acquire'] = async (name, signal) => {
      const ttl = lockOptions.ttl ?? defaultTtl(schedule, context.ttlMs, this.#clock.now())
      return context.acquire(name, { ...lockOptions, ttl, wait: Number.POSITIVE_INFINITY, signal })
    }
    const runner = {
      clock: this.#clock,
      read: async (name: string) => {
        await context.ready()
        return this.#reads.add({ name })
      },
      write: (mark) => context.store.writeMark(mark),
      acquire,
      run: (lease, run) => context.run(lease, run),
      warn: context.warn,
      failed: context.failed,
    } satisfies RunnerContext<LeaseHandle<Tx>>
    const begin = (terms: JobTerms) =>
      new JobRunner(runner, terms, async ({ lease, scheduledAt, lastSuccess }) =>
        body({
          lease,
          scheduledAt: new Date(scheduledAt),
          signal: lease.signal,
          lastSuccess: lastSuccess === null ? null : new Date(lastSuccess),
        }),
      )
    const terms = { name, schedule, guarantee, missed }
    const job = new ScheduledJob(name, outsideRuns(begin, terms), () => this.#running.delete(name))
    this.#running.set(name, job)
    return job
  }
}

type Runner = Pick<JobRunner<JobLease>, 'lease' | 'next' | 'stop'>

class ScheduledJob implements Job {
  readonly name: string
  readonly #runner: Runner
  readonly #onStopped: () => unknown

  constructor(name: string, runner: Runner, onStopped: () => unknown) {
    this.name = name
    this.#runner = runner
    this.#onStopped = onStopped
  }

  get running(): boolean {
    return this.#runner.lease !== undefined
  }

  next(): Date | null {
    const next = this.#runner.next()
    return next === null ? null : new Date(next)
  }

  async stop(): Promise<void> {
    const { lease } = this.#runner
    const ended = this.#runner.stop().then(this.#onStopped)
    // A run that waited for itself would never end.
    const isOwn = lease !== undefined && heldAround().some((held) => held === (lease as unknown))
    if (!isOwn) await ended
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }
}

function checkOneOf(what: string, value: string, known: readonly string[]): void {
  if (known.includes(value)) return
  const names = known.map((each) => `'${each}'`).join(' or ')
  throw new LockError('INVALID_ARGUMENT', `${what} must be ${names}, not ${inspect(value, { depth: 0 })}`)
}

function defaultTtl(schedule: Schedule, longestMs: number, now: number): number {
  const next = schedule.next(now)
  const after = next === null ? null : schedule.next(next)
  if (next === null || after === null) return longestMs
  return Math.min(longestMs, Math.max(SHORTEST_TTL_MS, Math.floor((after - next) * TTL_PART)))
}
