import { dotChart, panelsOf } from '../chart.ts'
import { type ContenderName, takingPart } from '../contenders.ts'
import type { Question } from '../harness.ts'
import { withProcesses } from '../processes.ts'
import type { Address, Target } from '../servers.ts'
import { cyclesSetting, measureCycles } from './cycles.ts'
import { handOffSetting, measureHandOff } from './hand-off.ts'
import { measurePairs } from './pair.ts'

/** Each way, as between two data centres of a region. */
const DELAY_MS = 2

const PAIRS: readonly ContenderName[] = [
  'rowlock',
  'two round trips',
  'raw UPDATEs',
  'SELECT FOR UPDATE',
  'verrou (Kysely)',
  'redlock',
]
const HAND_OFFS: readonly ContenderName[] = ['rowlock', 'pg_advisory_lock', 'GET_LOCK', 'redlock']
const CYCLES: readonly ContenderName[] = ['rowlock', 'raw UPDATEs', 'redlock', 'redlock, auto-pipelined']

export const delay: Question = {
  name: 'delay',
  title: `With ${DELAY_MS} ms of network delay each way`,
  method:
    `The database and Redis are reached through proxies, processes of their own, that make everything ${DELAY_MS} ms late in both directions. The floor of a pair is two round trips that ` +
    "ask for nothing (select 1). Node's timers are good to about a millisecond, which hits all alike.",
  engines: { quick: ['postgres18'], full: ['postgres18'] },
  compared: ['p50 ms', 'cycles per s'],
  floors: ['two round trips', 'pg_advisory_lock', 'GET_LOCK', 'raw UPDATEs'],
  async measure(bench, engine) {
    const near = await bench.servers.target(engine)
    await withProcesses(2, async ([database, redis]) => {
      const port = await database!.call('delay', addressOf(near.url), DELAY_MS)
      const far: Target = {
        ...near,
        url: throughPort(near.url, port),
        redis: { host: '127.0.0.1', port: await redis!.call('delay', near.redis, DELAY_MS) },
      }
      const pairs = {
        warmUpMs: 300,
        ...bench.pick({ quick: { rounds: 3, forMs: 200 }, full: { rounds: 9, forMs: 400 } }),
      }
      bench.record(delay.name, engine, 'pair', await measurePairs(far, takingPart(engine, PAIRS), pairs))
      for (const waiters of bench.pick({ quick: [10], full: [1, 10, 100] })) {
        const plan = {
          waiters,
          processes: 4,
          rounds: bench.pick({ quick: 1, full: 5 }),
          drains: Math.ceil(20 / waiters),
        }
        const names = bench.pick({ quick: HAND_OFFS.slice(0, 2), full: HAND_OFFS })
        const measured = await measureHandOff(bench, far, names, plan)
        bench.record(delay.name, engine, `hand-off, ${handOffSetting(plan)}`, measured)
      }
      const many = {
        callers: 256,
        connections: 10,
        ...bench.pick({ quick: { rounds: 1, forMs: 600 }, full: { rounds: 4, forMs: 800 } }),
      }
      const measured = await measureCycles(bench, far, takingPart(engine, CYCLES), many)
      bench.record(delay.name, engine, cyclesSetting(many.callers, many.connections), measured)
    })
  },
  charts: (figures) => [
    dotChart('delay', `With ${DELAY_MS} ms each way: p50, ms (log scale)`, panelsOf(figures, 'p50 ms')),
    dotChart(
      'delay-cycles',
      `With ${DELAY_MS} ms each way: cycles per second (log scale)`,
      panelsOf(figures, 'cycles per s'),
    ),
  ],
}

function addressOf(url: string): Address {
  const { hostname, port } = new URL(url)
  return { host: hostname, port: Number(port) }
}

function throughPort(url: string, port: number): string {
  const changed = new URL(url)
  changed.host = `127.0.0.1:${port}`
  return changed.href
}
