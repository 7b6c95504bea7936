import { setTimeout as sleep } from 'node:timers/promises'
import { dotChart, lineChart, panelsOf } from '../chart.ts'
import { type ContenderName, needsConnectionPerCaller, takingPart } from '../contenders.ts'
import { type Bench, inRounds, latencies, type Metrics, type Question } from '../harness.ts'
import type { BenchProcess } from '../processes.ts'
import { freshName, type Target } from '../servers.ts'

const CONTENDERS: readonly ContenderName[] = [
  'rowlock',
  'raw hand-over',
  'pg_advisory_lock',
  'GET_LOCK',
  'advisory-lock',
  'SELECT FOR UPDATE',
  'verrou (Kysely)',
  'redlock',
]

/** The servers are set up for 300, which is more than most allow. */
const MOST_CONNECTIONS = 280
/** What each process may use otherwise: the size of a usual pool. */
const POOL = 10

/** More of them need minutes to serve each other, on a database that is busy answering them all. */
const MOST_OF_VERROU = 100

/**
 * Hand-offs before it counts: connections are made, each session has planned what it is sent for the last time, and V8 has
 * compiled what is hot, which takes a few hundred of them.
 */
const WARM_UP = { waiters: 10, ms: { quick: 500, full: 3000 } }
/** More waiters than this do so themselves. */
const WARMED_UP = 100

/** Time for waiters to arrive before the lock is released: for all of them, and for each. */
const ARRIVAL_MS = { all: 50, each: 0.75 }
/** Releases come at any moment of the pause between two polls; verrou's of 250 ms is the longest, and of the fastest ours. */
const LONGEST_POLL_MS = { all: 250, fastest: 50 }

interface Setting {
  readonly waiters: number
  readonly processes: number
}

interface Effort {
  readonly rounds: number
  /** How often the waiters queue up in one round. */
  readonly drains: number
}

type Plan = Setting & Effort

export const handOffSetting = ({ waiters, processes }: Setting) =>
  `${waiters} ${waiters === 1 ? 'waiter' : 'waiters'}, ${processes} ${processes === 1 ? 'process' : 'processes'}`

export const WAITERS = [1, 10, 100, 1000] as const

type Waiters = (typeof WAITERS)[number]

export const handOff: Question = {
  name: 'hand-off',
  title: 'From a release to the next holder',
  method:
    'One caller holds a lock, others arrive and wait for it, in one process or one after another in four; then it is released, and each of them releases it ' +
    'a turn of its event loop after it got it. Latency: from the call of release to the resolution of the next acquire, by the clock that processes of one machine share. Statements per grant: all that ' +
    'all processes sent from the first release to the last grant. pg_advisory_lock, GET_LOCK, advisory-lock and SELECT FOR UPDATE need a connection for each waiter, ' +
    `so they take part up to ${MOST_CONNECTIONS} of them; the raw hand-over, a durable UPDATE with NOTIFY, or on SQLite with the touch of a file that is watched, has no queue, so it is for one waiter only; the others have ${POOL} connections in each process. verrou and redlock poll, with their own defaults, and 1000 callers of verrou would take minutes.`,
  engines: {
    quick: ['postgres18', 'mysql', 'mariadb', 'sqlite'],
    full: ['postgres18', 'postgres15', 'mysql', 'mariadb', 'sqlite'],
  },
  compared: ['p50 ms'],
  floors: ['pg_advisory_lock', 'GET_LOCK'],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const isMain = engine === 'postgres18'
    const names = bench.quick || !isMain ? FASTEST : CONTENDERS
    for (const processes of isMain ? [1, 4] : [4]) {
      for (const waiters of bench.quick && (!isMain || processes === 1) ? QUICK_ELSEWHERE : WAITERS) {
        const plan = { waiters, processes, ...bench.pick({ quick: QUICK, full: FULL })[waiters] }
        bench.record(handOff.name, engine, handOffSetting(plan), await measureHandOff(bench, target, names, plan))
      }
    }
  },
  charts: (figures) => [
    dotChart(
      'hand-off',
      'From a release to the next holder: p50, ms (log scale)',
      panelsOf(figures, 'p50 ms', ['4 processes']),
    ),
    lineChart('hand-off-waiters', {
      title: 'PostgreSQL 18, four processes: p50 of a hand-off, by waiters',
      x: 'waiters',
      y: 'ms',
      figures: figures.filter(
        ({ engine, metric, setting }) =>
          engine === 'postgres18' && metric === 'p50 ms' && setting.endsWith('4 processes'),
      ),
    }),
  ],
}

const FASTEST: readonly ContenderName[] = ['rowlock', 'raw hand-over', 'pg_advisory_lock', 'GET_LOCK']

const QUICK_ELSEWHERE: readonly Waiters[] = [10]

/** Few waiters are few grants, so these queue up more often. */
const QUICK: Record<Waiters, Effort> = {
  1: { rounds: 3, drains: 6 },
  10: { rounds: 3, drains: 2 },
  100: { rounds: 2, drains: 1 },
  1000: { rounds: 1, drains: 1 },
}
const FULL: Record<Waiters, Effort> = {
  1: { rounds: 4, drains: 20 },
  10: { rounds: 4, drains: 3 },
  100: { rounds: 4, drains: 1 },
  1000: { rounds: 3, drains: 1 },
}

export async function measureHandOff(
  bench: Bench,
  target: Target,
  names: readonly ContenderName[],
  plan: Plan,
): Promise<Map<ContenderName, Metrics[]>> {
  const able = takingPart(target.engine, names).filter(
    (name) =>
      !(needsConnectionPerCaller(name) && plan.waiters > MOST_CONNECTIONS) &&
      !(name.startsWith('verrou') && plan.waiters > MOST_OF_VERROU) &&
      !(name === 'raw hand-over' && plan.waiters > 1),
  )
  const processes = await bench.processes(plan.processes)
  const longestPollMs = names.some((name) => !FASTEST.includes(name)) ? LONGEST_POLL_MS.all : LONGEST_POLL_MS.fastest
  const once = (name: ContenderName, waiters = plan.waiters) => drain(processes, name, waiters, longestPollMs)
  const enter = async (name: ContenderName) => {
    const connections = needsConnectionPerCaller(name) ? Math.ceil(plan.waiters / plan.processes) + 1 : POOL
    // One after the other: each may have tables to create.
    for (const process of processes) await process.call('open', name, target, connections)
    if (plan.waiters > WARMED_UP) return
    // Who needs a connection for each has new ones in every round.
    if (needsConnectionPerCaller(name)) return void (await once(name))
    const end = performance.now() + bench.pick(WARM_UP.ms)
    while (performance.now() < end) await once(name, name === 'raw hand-over' ? 1 : WARM_UP.waiters)
  }
  const leave = (name: ContenderName) => Promise.all(processes.map((process) => process.call('close', name)))

  const staying = able.filter((name) => !needsConnectionPerCaller(name))
  for (const name of staying) await enter(name)
  const measured = await inRounds(plan.rounds, able, async (name) => {
    // The server has no connections for all of these at once.
    if (needsConnectionPerCaller(name)) await enter(name)
    const drains: Drain[] = []
    for (let turn = 0; turn < plan.drains; turn++) drains.push(await once(name))
    if (needsConnectionPerCaller(name)) await leave(name)
    const total = (metric: (drain: Drain) => number) => drains.reduce((sum, drain) => sum + metric(drain), 0)
    return {
      ...latencies(drains.flatMap(({ latencies }) => latencies)),
      'statements per grant': total(({ statements }) => statements) / total(({ latencies }) => latencies.length),
      'drain ms': total(({ drainMs }) => drainMs) / drains.length,
    }
  })
  for (const name of staying) await leave(name)
  return measured
}

interface Drain {
  readonly latencies: number[]
  /** From the first release to the last grant. */
  readonly drainMs: number
  readonly statements: number
}

async function drain(
  processes: readonly BenchProcess[],
  name: ContenderName,
  waiters: number,
  longestPollMs: number,
): Promise<Drain> {
  const lock = freshName()
  const holder = processes[0]!
  await holder.call('hold', name, [lock])
  // One after the other, each in another process than the one before, so that most hand-offs cross processes.
  for (let waiter = 1; waiter <= waiters; waiter++) {
    await processes[waiter % processes.length]!.call('wait', name, [lock])
  }
  await sleep(ARRIVAL_MS.all + waiters * ARRIVAL_MS.each + Math.random() * longestPollMs)
  await Promise.all(processes.map((process) => process.call('startRecording')))
  const firstRelease = await holder.call('letGo')
  const waited = await Promise.all(processes.map((process) => process.call('waited')))
  const holds = waited.flatMap(({ holds }) => holds).sort((a, b) => a.grantedAt - b.grantedAt)
  const releases = [firstRelease, ...holds.map(({ releasedAt }) => releasedAt)]
  const latencies = holds.map(({ grantedAt }, turn) => grantedAt - releases[turn]!)
  if (latencies.some((latency) => latency < 0)) throw new Error(`${name} let two callers hold the lock at once`)
  const lastGrant = holds.at(-1)!.grantedAt
  return {
    latencies,
    drainMs: lastGrant - firstRelease,
    statements: waited.flatMap(({ sentAt }) => sentAt.filter((at) => at >= firstRelease && at < lastGrant)).length,
  }
}
