import { setTimeout as sleep } from 'node:timers/promises'
import { dotChart, panelsOf } from '../chart.ts'
import { type ContenderName, takingPart } from '../contenders.ts'
import { latencies, now, type Question } from '../harness.ts'
import { type BenchProcess, startProcess } from '../processes.ts'
import { freshName, type Target } from '../servers.ts'

const CONTENDERS: readonly ContenderName[] = [
  "rowlock, takeover: 'session'",
  'pg_advisory_lock',
  'GET_LOCK',
  'advisory-lock',
]

/** Processes that are started together. */
const BATCH = 4

export const takeover: Question = {
  name: 'takeover',
  title: 'From kill -9 of the holder to the next holder',
  method:
    "A process takes a lock with a ttl of 30 s and is killed with SIGKILL while a caller in another process waits for it. Latency: from the kill to the waiter's grant. The floor is " +
    'what the engine itself makes of it: a session lock that another session waits for. redlock, verrou, and rowlock without takeover by session go on when the ttl is over.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb'] },
  compared: ['p50 ms'],
  floors: ['pg_advisory_lock', 'GET_LOCK'],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const names = takingPart(engine, bench.pick({ quick: CONTENDERS.slice(0, 2), full: CONTENDERS }))
    const batches = bench.pick({ quick: 1, full: 6 })
    const [waiting] = (await bench.processes(1)) as [BenchProcess]
    const samples = new Map<ContenderName, number[]>(names.map((name) => [name, []]))
    for (const name of names) await waiting.call('open', name, target, 2)
    for (let batch = 0; batch < batches; batch++) {
      for (const name of names) samples.get(name)!.push(...(await kills(target, name, waiting)))
    }
    for (const name of names) await waiting.call('close', name)
    const measured = new Map([...samples].map(([name, milliseconds]) => [name, [latencies(milliseconds)]]))
    bench.record(takeover.name, engine, `${batches * BATCH} kills`, measured)
  },
  charts: (figures) => [
    dotChart('takeover', 'From kill -9 to the next holder: p99, ms (log scale)', panelsOf(figures, 'p99 ms')),
  ],
}

/** How long the waiter had to wait after each of a batch of kills. */
async function kills(target: Target, name: ContenderName, waiting: BenchProcess): Promise<number[]> {
  const holders = await Promise.all(Array.from({ length: BATCH }, startProcess))
  const samples: number[] = []
  for (const holder of holders) {
    const lock = freshName()
    await holder.call('open', name, target, 2)
    await holder.call('hold', name, [lock])
    await waiting.call('wait', name, [lock])
    // The waiter is on its way to the database, and the holder idle.
    await sleep(100 + Math.random() * 100)
    const killedAt = now()
    await holder.kill()
    const { holds } = await waiting.call('waited')
    samples.push(holds[0]!.grantedAt - killedAt)
  }
  return samples
}
