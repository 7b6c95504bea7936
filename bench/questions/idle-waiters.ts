import { setTimeout as sleep } from 'node:timers/promises'
import { dotChart, panelsOf } from '../chart.ts'
import type { ContenderName } from '../contenders.ts'
import { inRounds, type Question } from '../harness.ts'
import { type BenchProcess, withProcesses } from '../processes.ts'
import { freshName } from '../servers.ts'

const WAITERS = 1000
const CONTENDERS: readonly ContenderName[] = ['rowlock', 'verrou (Kysely)', 'redlock']

/** Enough for 1000 callers to ask, and to settle down to waiting. */
const ARRIVAL_MS = 2000

export const IDLE_SETTINGS = { 'one lock': 1, 'a lock each': WAITERS } as const

export const idleWaiters: Question = {
  name: 'idle-waiters',
  title: 'What 1000 waiters ask of the database while nothing happens',
  method:
    'One process holds the locks; 1000 callers of another wait, all for one lock or each for a lock of their own. Counted: the statements, or commands to Redis, ' +
    'that the waiting process sends. Session locks and SELECT FOR UPDATE send none, but would keep 1000 connections for it.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['statements per s'],
  floors: [],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const { rounds, forMs } = bench.pick({ quick: { rounds: 1, forMs: 2000 }, full: { rounds: 2, forMs: 5000 } })
    const names: readonly ContenderName[] = bench.quick || engine !== 'postgres18' ? ['rowlock'] : CONTENDERS
    for (const [setting, locks] of Object.entries(IDLE_SETTINGS)) {
      const measured = await inRounds(rounds, names, (name) =>
        // Of their own, and killed in the end: to serve 1000 of its waiters takes some contenders minutes.
        withProcesses(2, async (processes) => {
          const [holder, waiting] = processes as [BenchProcess, BenchProcess]
          const held = Array.from({ length: locks }, freshName)
          const awaited = Array.from({ length: WAITERS }, (_, waiter) => held[waiter % locks]!)
          for (const process of processes) await process.call('open', name, target, 10)
          await holder.call('hold', name, held)
          await waiting.call('wait', name, awaited)
          await sleep(ARRIVAL_MS)
          return { 'statements per s': (await waiting.call('statementsDuring', forMs)) / (forMs / 1000) }
        }),
      )
      bench.record(idleWaiters.name, engine, `1000 waiters, ${setting}`, measured)
    }
  },
  charts: (figures) => [
    dotChart(
      'idle-waiters',
      'Statements per second from 1000 waiters (log scale)',
      panelsOf(figures, 'statements per s'),
    ),
  ],
}
