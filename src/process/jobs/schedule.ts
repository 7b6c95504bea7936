import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Cron } from 'croner'
import { LockError } from '../../base/errors.ts'

/** When something is to be done: its instants, as milliseconds since 1970 by the database's clock. */
export interface Schedule {
  /** The first one after that time; null if there is none any more. */
  next(after: number): number | null
  /** The last one up to that time. */
  latest(at: number): number | null
  /** For how long an instant may be taken late although the next one has come. */
  readonly lateMs: number
  /** What tells it from other schedules, and from which it can be made again. */
  readonly terms: ScheduleTerms
}

export type ScheduleTerms =
  | { readonly every: number; readonly from: number }
  | { readonly cron: string; readonly timezone: string }

/** A period belongs to one run: what is late for it is early for the next one. */
const NOTHING_LATE_MS = 0
/** Of a cron's instants none is to be passed over because everybody stood still, or the database did, for a moment. */
const CRON_LATE_MS = 10_000

export function toSchedule(terms: ScheduleTerms): Schedule {
  return 'every' in terms ? periodic(terms) : cronned(terms)
}

function periodic(terms: { readonly every: number; readonly from: number }): Schedule {
  const { every, from } = terms
  const latest = (at: number) => from + Math.floor((at - from) / every) * every
  return { next: (after) => latest(after) + every, latest, lateMs: NOTHING_LATE_MS, terms }
}

function cronned(terms: { readonly cron: string; readonly timezone: string }): Schedule {
  const cron = parsed(terms)
  return {
    next: (after) => cron.nextRun(new Date(after))?.getTime() ?? null,
    // It looks for those before a time.
    latest: (at) => cron.previousRuns(1, new Date(Math.floor(at / SECOND_MS + 1) * SECOND_MS))[0]?.getTime() ?? null,
    lateMs: CRON_LATE_MS,
    terms,
  }
}

/** Croner's instants are whole seconds. */
const SECOND_MS = 1000

function parsed({ cron: expression, timezone }: { readonly cron: string; readonly timezone: string }): Cron {
  const { Cron: Croner } = croner()
  let cron: Cron
  let first: Date | null
  try {
    cron = new Croner(expression, { timezone })
    first = cron.nextRun()
  } catch (cause) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(expression)} in the time zone ${JSON.stringify(timezone)} is no schedule: ${(cause as Error).message}`,
      { cause },
    )
  }
  if (first !== null) return cron
  throw new LockError('INVALID_ARGUMENT', `the cron expression ${JSON.stringify(expression)} never fires`)
}

let loaded: typeof import('croner') | undefined

/** Loaded when the first cron is made, so that nobody else needs it; and at once, so that a wrong expression is told at once. */
function croner(): typeof import('croner') {
  loaded ??= load()
  return loaded
}

function load(): typeof import('croner') {
  // As the application would: this module may be part of a bundle, or not be told where it is.
  const failures: unknown[] = []
  for (const from of [process.argv[1], join(process.cwd(), 'package.json')]) {
    if (from === undefined) continue
    try {
      return createRequire(from)('croner') as typeof import('croner')
    } catch (error) {
      failures.push(error)
    }
  }
  throw new LockError('UNSUPPORTED', 'locks.cron needs the package croner: npm install croner', {
    cause: new AggregateError(failures),
  })
}
