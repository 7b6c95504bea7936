import { dotChart, panelsOf } from '../chart.ts'
import { type ContenderName, takingPart } from '../contenders.ts'
import { inRounds, type Question } from '../harness.ts'
import { withProcesses } from '../processes.ts'

const CONTENDERS: readonly ContenderName[] = ['rowlock', 'verrou (Kysely)', 'redlock']

export const memory: Question = {
  name: 'memory',
  title: 'Memory of leases and waiters',
  method:
    'Heap and external memory of a fresh process after garbage collection: empty, with so many leases, and with so many callers that wait for one of them as well.',
  engines: { quick: ['postgres18'], full: ['postgres18'] },
  compared: ['bytes per lease'],
  floors: [],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const { rounds, leases, waiters } = bench.pick({
      quick: { rounds: 1, leases: 2000, waiters: 500 },
      full: { rounds: 2, leases: 10_000, waiters: 1000 },
    })
    const names = takingPart(engine, bench.pick({ quick: ['rowlock'], full: CONTENDERS }))
    const measured = await inRounds(rounds, names, (name) =>
      withProcesses(1, async ([process]) => {
        await process!.call('open', name, target, 10)
        const { perLease, perWaiter } = await process!.call('memory', name, leases, waiters)
        return { 'bytes per lease': perLease, 'bytes per waiter': perWaiter }
      }),
    )
    bench.record(memory.name, engine, `${leases} leases, ${waiters} waiters`, measured)
  },
  charts: (figures) => [
    dotChart('memory-lease', 'Bytes per lease (log scale)', panelsOf(figures, 'bytes per lease')),
    dotChart('memory-waiter', 'Bytes per waiter (log scale)', panelsOf(figures, 'bytes per waiter')),
  ],
}
