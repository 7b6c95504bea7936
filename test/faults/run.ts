import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createBooks, readBooks } from './books.ts'
import { percentile } from './campaign.ts'
import { checkers, controlErrors, type Evidence, type Fault, losses, overtaken, takeovers } from './checkers.ts'
import { Crew } from './crew.ts'
import { type Control, clock, emptyHistory, type Outcome, readHistory, type Write } from './history.ts'
import { applicable, type FaultName, unleash } from './nemesis.ts'
import { Register } from './register.ts'
import { type PlannedFault, plan } from './schedule.ts'
import { createSessionUsers } from './sessions.ts'
import { type EngineName, migrate, startTarget, type Target } from './target.ts'
import { PERMITS } from './work.ts'
import type { LockNames, WorkerSettings } from './worker.ts'

export interface RunOptions {
  readonly engine: EngineName
  readonly seed: number
  readonly durationMs: number
  readonly faults: readonly FaultName[]
  readonly work: readonly WorkName[]
  /** Mean time from one fault to the next. */
  readonly everyMs: number
  readonly workers: number
  readonly ttlMs: number
  /** Each kind has to happen so often. */
  readonly leastOfEachKind: number
  readonly mostOvertakes: number
  /** Keep the histories and logs even if all is well. */
  readonly keep: boolean
  print(line: string): void
}

export const workNames = ['exclusive', 'modes'] as const
/** Locks that one has at a time; and those that are shared, with semaphores. */
export type WorkName = (typeof workNames)[number]

export interface RunResult {
  readonly engine: EngineName
  readonly seed: number
  readonly seconds: number
  readonly faults: Readonly<Record<string, number>>
  readonly operations: Readonly<Record<Outcome, number>>
  readonly guardedWrites: number
  readonly guardedWritesPerSecond: number
  /** Beside writers, or after a downgrade. */
  readonly guardedReads: number
  /** Writes under permits. */
  readonly guardedUses: number
  readonly grants: number
  /** Callers who left within moments, while locks that they wanted were handed from one to the next. */
  readonly departures: number
  /** Parts of the controls' committed work that were overwritten or otherwise wrong. */
  readonly controls: Readonly<Partial<Record<Control, { readonly writes: number; readonly lost: number }>>>
  readonly takeovers: { readonly count: number; readonly p99: number | null }
  readonly losses: number
  readonly overtakes: { readonly callers: number; readonly most: number }
  readonly register: { readonly accepted: number; readonly refused: number }
  /** The commonest errors of operations, and how often they came. */
  readonly errors: readonly (readonly [string, number])[]
  /** Why the run has failed; empty if it has not. By checker. */
  readonly violations: Readonly<Record<string, readonly string[]>>
  /** Where histories and logs are; null if they were removed. */
  readonly directory: string | null
}

const LOCKS: Readonly<Record<keyof LockNames, number>> = {
  guarded: 64,
  withoutGuard: 3,
  checkThenAct: 2,
  modes: 16,
  permits: 6,
  modesWithoutGuard: 2,
  permitsWithoutGuard: 1,
}
type Callers = WorkerSettings['callers']
/** In each worker. */
const NOBODY: Callers = {
  ...{ guarded: 0, withoutGuard: 0, checkThenAct: 0, overNarrowPool: 0, leaving: 0 },
  ...{ modes: 0, permits: 0, modesWithoutGuard: 0, permitsWithoutGuard: 0 },
}
const CALLERS: Readonly<Record<WorkName, Partial<Callers>>> = {
  exclusive: { guarded: 16, withoutGuard: 3, checkThenAct: 1, overNarrowPool: 20, leaving: 2 },
  modes: { modes: 16, permits: 8, modesWithoutGuard: 3, permitsWithoutGuard: 2 },
}
const CONTROLS: Readonly<Record<WorkName, readonly Control[]>> = {
  exclusive: ['lease without guard', 'check then act'],
  modes: ['modes without guard', 'permits without guard'],
}
const WAIT_MS = 5000
/** What the library may take beyond its wait to see that the database does not answer, three times. */
const GRACE_MS = 8000
/** After the last fault: callers find their way back to work. */
const CALM_MS = 1000
const FINISH_MS = 30_000
/** Controls that lose less show that the nemesis was too kind. */
const LEAST_CONTROL_LOSS = 0.01
/** Of fewer it cannot be told: in a short run on a slow engine there are some dozens of one of them. */
const LEAST_CONTROL_WRITES = 200
const LEAST_SUCCESS = 0.5

/** On SQLite no transaction waits for a lock in a pool: there is one handle. */
function callersOn({ dialect }: Target, wanted: readonly WorkName[]): Callers {
  const callers = Object.assign({}, NOBODY, ...wanted.map((each) => CALLERS[each])) as Callers
  return dialect === 'sqlite' ? { ...callers, overNarrowPool: 0 } : callers
}

/** One run on one engine: workers work, the nemesis breaks things, and then all that is known is checked. */
export async function run(options: RunOptions): Promise<RunResult> {
  const { engine, print } = options
  const directory = await mkdtemp(join(tmpdir(), `rowlock-faults-${engine}-`))
  const target = await startTarget(engine, { clock: options.faults.some((kind) => kind.startsWith('clock')) })
  let result: RunResult | undefined
  try {
    result = judge(options, await work(options, target, directory), directory)
    return options.keep || hasFailed(result) ? result : { ...result, directory: null }
  } finally {
    const isToKeep = options.keep || result === undefined || hasFailed(result)
    if (isToKeep) await target.keepLogs(directory)
    await target.stop()
    if (isToKeep) print(`${engine}: histories and logs are kept in ${directory}`)
    else await rm(directory, { recursive: true })
  }
}

export function hasFailed({ violations }: RunResult): boolean {
  return Object.keys(violations).length > 0
}

interface Outturn {
  readonly evidence: Evidence
  /** The kinds that this run should have seen. */
  readonly kinds: readonly FaultName[]
  /** What workers did that none should do. */
  readonly problems: readonly string[]
}

async function work(options: RunOptions, target: Target, directory: string): Promise<Outturn> {
  const { seed, ttlMs, print } = options
  const locks = lockNames()
  await prepare(target, locks, options.workers)
  const register = new Register()
  const crew = await Crew.start({
    target,
    places: options.workers,
    directory,
    register,
    settings: { seed, ttlMs, waitMs: WAIT_MS, locks, callers: callersOn(target, options.work) },
  })
  const ofWork = { exclusive: locks.guarded, modes: [...locks.modes, ...locks.permits] }
  const broken = workNames.filter((each) => options.work.includes(each)).flatMap((each) => ofWork[each])
  const kinds = applicable(options.faults, target)
  let faults: Fault[]
  const startedAt = clock()
  try {
    const planned = plan({
      ...options,
      kinds,
      places: options.workers,
      isProxied: (place) => crew.isProxied(place),
    })
    print(`${options.engine}: seed ${seed}, ${planned.length} faults in ${options.durationMs / 1000} s`)
    for (const fault of planned) print(`  ${show(fault)}`)
    await writeFile(join(directory, 'schedule.json'), JSON.stringify({ ...options, planned }, null, 2))
    faults = await unleash({ target, crew, locks: broken, ttlMs }, planned)
    await sleep(Math.max(CALM_MS, startedAt + options.durationMs - clock()))
    await crew.finish(FINISH_MS)
  } finally {
    await crew.close()
  }
  const endedAt = clock()
  await writeFile(join(directory, 'faults.json'), JSON.stringify(faults, null, 2))
  const history = emptyHistory()
  for (const file of crew.historyFiles()) await readHistory(file, history)
  await target.cluster?.untilWhole()
  const connection = await target.connect()
  const books = await readBooks(connection)
  await connection.close()
  const guarded = new Set([...locks.guarded, ...locks.modes, ...locks.permits])
  const isGuarded = (lock: string) => guarded.has(lock)
  const withPermits = new Set([...locks.permits, ...locks.permitsWithoutGuard])
  const roomOf = (lock: string) => (withPermits.has(lock) ? PERMITS : Number.POSITIVE_INFINITY)
  const { mostOvertakes } = options
  const hasOneWriter = target.dialect === 'sqlite'
  const seesTheDead = target.dialect === 'postgres'
  const terms = {
    ttlMs,
    waitMs: WAIT_MS,
    graceMs: GRACE_MS,
    mostOvertakes,
    isGuarded,
    roomOf,
    hasOneWriter,
    seesTheDead,
  }
  const evidence: Evidence = { ...terms, ...history, ...books, register: register.entries, faults, startedAt, endedAt }
  return { evidence, kinds: [...kinds.keys()], problems: crew.problems }
}

async function prepare(target: Target, locks: LockNames, workers: number): Promise<void> {
  const connection = await target.connect()
  const semaphores = [...locks.permits, ...locks.permitsWithoutGuard]
  await createBooks(connection, target.dialect, Object.values(locks).flat(), semaphores)
  await createSessionUsers(connection, target.dialect, workers)
  await connection.close()
  await migrate(target)
}

function lockNames(): LockNames {
  const names = (prefix: string, count: number) => Array.from({ length: count }, (_, index) => `${prefix}:${index + 1}`)
  return {
    guarded: names('guarded', LOCKS.guarded),
    withoutGuard: names('lease without guard', LOCKS.withoutGuard),
    checkThenAct: names('check then act', LOCKS.checkThenAct),
    modes: names('modes', LOCKS.modes),
    permits: names('permits', LOCKS.permits),
    modesWithoutGuard: names('modes without guard', LOCKS.modesWithoutGuard),
    permitsWithoutGuard: names('permits without guard', LOCKS.permitsWithoutGuard),
  }
}

function judge(options: RunOptions, { evidence, kinds, problems }: Outturn, directory: string): RunResult {
  const { writes, waits, holds, departures, faults, isGuarded, register, startedAt, endedAt } = evidence
  const operations = { ok: 0, fail: 0, info: 0 }
  for (const calls of [waits, writes]) for (const { outcome } of calls) operations[outcome]++
  const guarded = (action: Write['action']) =>
    writes.filter((write) => write.action === action && write.outcome === 'ok' && isGuarded(write.lock)).length
  const guardedWrites = guarded('write')
  const fired: Record<string, number> = Object.fromEntries(kinds.map((kind) => [kind, 0]))
  for (const fault of faults) if (fault.fired) fired[fault.kind]!++
  const seconds = (endedAt - startedAt) / 1000
  const takeoverTimes = takeovers(evidence).map(({ milliseconds }) => milliseconds)
  const overtakes = overtaken(evidence).map(({ by }) => by)
  const accepted = register.filter((entry) => entry.accepted).length
  const result = {
    engine: options.engine,
    seed: options.seed,
    seconds,
    faults: fired,
    operations,
    guardedWrites,
    guardedWritesPerSecond: guardedWrites / seconds,
    guardedReads: guarded('read'),
    guardedUses: guarded('use'),
    grants: holds.length,
    departures: departures.length,
    controls: Object.fromEntries(
      options.work.flatMap((each) => CONTROLS[each]).map((control) => [control, controlLoss(evidence, control)]),
    ),
    takeovers: { count: takeoverTimes.length, p99: percentile(takeoverTimes, 0.99) },
    losses: losses(evidence).length,
    overtakes: { callers: overtakes.length, most: overtakes.reduce((one, other) => Math.max(one, other), 0) },
    register: { accepted, refused: register.length - accepted },
    errors: [...evidence.errors].sort(([, one], [, other]) => other - one),
    directory,
  }
  const violations = [
    ...Object.entries(checkers).map(([name, check]) => [name, check(evidence)] as const),
    ['workersComeToTheirEnd', problems] as const,
    ['theRunIsWorthSomething', shortcomings(options, result)] as const,
  ]
  return { ...result, violations: Object.fromEntries(violations.filter(([, sentences]) => sentences.length > 0)) }
}

/** A run that was too easy shows nothing. */
function shortcomings({ leastOfEachKind, work }: RunOptions, result: Omit<RunResult, 'violations'>): string[] {
  const { faults, controls, operations, departures } = result
  const all = operations.ok + operations.fail + operations.info
  return [
    ...Object.entries(faults)
      .filter(([, times]) => times < leastOfEachKind)
      .map(([kind, times]) => `'${kind}' happened ${times} times, not ${leastOfEachKind}`),
    ...Object.entries(controls)
      .filter(([, { writes, lost }]) => writes >= LEAST_CONTROL_WRITES && !(lost >= LEAST_CONTROL_LOSS * writes))
      .map(([control, { writes, lost }]) => `'${control}' lost only ${lost} of ${writes} writes`),
    ...(departures === 0 && work.includes('exclusive') ? ['nobody left while a lock was handed over'] : []),
    ...(operations.ok < LEAST_SUCCESS * all ? [`only ${operations.ok} of ${all} operations succeeded`] : []),
  ]
}

/** Each committed write adds one. What the counters do not show in the end was overwritten. */
function controlLoss(evidence: Evidence, control: Control): { writes: number; lost: number } {
  if (control === 'modes without guard' || control === 'permits without guard') return controlErrors(evidence, control)
  const { entries, counters } = evidence
  const isOfControl = (lock: string) => lock.startsWith(control)
  const writes = entries.filter(({ lock }) => isOfControl(lock)).length
  let shown = 0
  for (const [lock, value] of counters) if (isOfControl(lock)) shown += value
  return { writes, lost: writes - shown }
}

function show({ at, kind, place, milliseconds }: PlannedFault): string {
  const where = place === null ? '' : `, worker at place ${place}`
  const howLong = milliseconds === 0 ? '' : ` for ${milliseconds} ms`
  return `${(at / 1000).toFixed(1).padStart(7)} s  ${kind}${howLong}${where}`
}
