import type { Schedule } from './schedule.ts'

/** What the database keeps of a job. Times are milliseconds since 1970 by its clock. */
export interface JobState {
  /** The instant that was taken last. */
  readonly claimed: number
  /** Whether its run has succeeded. */
  readonly done: boolean
  /** How often it has failed. */
  readonly failures: number
  /** Not to be tried again before. */
  readonly retryAt: number
  /** When a run last succeeded. */
  readonly lastSuccess: number | null
}

export type Guarantee = 'at-most-once' | 'at-least-once'

/** What a process has to know to say what is due. */
export interface Duty {
  readonly schedule: Schedule
  readonly guarantee: Guarantee
  /** Instants up to that one were somebody else's, or nobody's. */
  readonly since: number
}

/** `instant`: to be run, until `until`. Else there is nothing to do until `at`; null: never again. */
export type Due =
  | { readonly instant: number; readonly until: number }
  | { readonly instant: null; readonly at: number | null }

/**
 * What a job has to do at that time. An instant is due from itself on until the next one comes; or, if it was not taken for want of
 * somebody who could, a little longer. One that was taken, but has not succeeded, is due again if it is to be at least once.
 */
export function dueAt(now: number, { schedule, guarantee, since }: Duty, state: JobState | undefined): Due {
  const { lateMs } = schedule
  const until = (instant: number) => Math.max(schedule.next(instant) ?? Number.POSITIVE_INFINITY, instant + lateMs)
  if (state !== undefined && guarantee === 'at-least-once' && !state.done && now < until(state.claimed)) {
    const { claimed, retryAt } = state
    if (retryAt <= now) return { instant: claimed, until: until(claimed) }
    if (retryAt < until(claimed)) return { instant: null, at: retryAt }
  }
  const latest = schedule.latest(now)
  const tooOld = latest === null ? now : Math.min(latest - 1, now - lateMs)
  const instant = schedule.next(Math.max(since, state?.claimed ?? since, tooOld))
  if (instant === null || instant > now) return { instant: null, at: instant }
  return { instant, until: until(instant) }
}

/** Of a process that comes at `now`: the instants after that, and the one before if nobody was there for it, and that matters. */
export function sinceOf(now: number, schedule: Schedule, missed: 'skip' | 'once', state: JobState | undefined): number {
  const latest = schedule.latest(now)
  const isMissed = missed === 'once' && state !== undefined && latest !== null && state.claimed < latest
  return isMissed ? latest - 1 : now
}
