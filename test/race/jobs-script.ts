import { setTimeout as sleep } from 'node:timers/promises'
import { Cron } from 'croner'
import nodeCron from 'node-cron'
import { createRunCoordinator } from '../../src/frameworks/node-cron.ts'
import { createLocks, type JobRun } from '../../src/index.ts'
import { connectors } from '../adapters.ts'

/** A process that takes part in a job of every second, and writes down each of its runs. Its clock is wrong. */
const [way, connector, url, name, clockError] = process.argv.slice(2) as [
  'cron' | 'every' | 'lock' | 'node-cron',
  keyof typeof connectors,
  string,
  string,
  string,
]

const { now } = Date
const error = Number(clockError)
const RealDate = Date
globalThis.Date = class extends RealDate {
  constructor(...args: ConstructorParameters<typeof Date> | []) {
    super(...((args.length === 0 ? [now() + error] : args) as [number]))
  }
  static override now = () => now() + error
} as typeof Date

const { adapter, sql, close } = await connectors[connector](url as never)
const locks = createLocks(adapter, { statementTimeout: '20s' })
locks.on((event) => {
  if (event.type === 'error') console.error(event.during, event.cause)
})

const fired = (instant: number) => sql(`insert into fires (instant, process) values (${instant}, ${process.pid})`)

const body = async ({ scheduledAt }: JobRun<unknown>) => {
  await sleep(20)
  await fired(scheduledAt.getTime())
}

const ways = {
  cron: () => locks.cron('* * * * * *', name, {}, body),
  /** A run that takes a while, so that a process is killed in it, and that can be taken up again long before the next one. */
  every: () =>
    locks.every('5s', name, { guarantee: 'at-least-once', ttl: '1s' }, async (run) => {
      await sleep(1000)
      await body(run)
    }),

  'node-cron'() {
    const task = nodeCron.schedule(
      '* * * * * *',
      async ({ date }) => {
        await sleep(20)
        await fired(Math.floor(date.getTime() / 1000) * 1000)
      },
      { name, distributed: true, timezone: 'UTC', runCoordinator: createRunCoordinator(locks) },
    )
    return { stop: async () => task.stop() }
  },

  /** As one would do it: whoever gets the lock at that second of its own clock has it for the length of the handler. */
  lock() {
    const cron = new Cron('* * * * * *', { timezone: 'UTC' }, async () => {
      const instant = Math.floor(Date.now() / 1000) * 1000
      await locks.tryRun(name, {}, async () => body({ scheduledAt: new Date(instant) } as JobRun<unknown>))
    })
    return { stop: async () => cron.stop() }
  },
}

const job = ways[way]()
process.on('SIGTERM', async () => {
  await job.stop()
  await locks.close()
  await close()
})
console.log('there')
