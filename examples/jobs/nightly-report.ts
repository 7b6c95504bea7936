/**
 * A report that is made once per night, by one of all replicas. Here a night lasts for two seconds, and the program ends after
 * some of them.
 *
 *     node --import tsx examples/jobs/nightly-report.ts [postgres://... | file.sqlite]
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { db, end, locks } from './database.ts'

const NIGHT = '*/2 * * * * *' // every two seconds; of nights: '0 3 * * *'
const NIGHTS_MS = 7000

const report = locks.cron(
  NIGHT,
  'nightly-report',
  { timezone: 'Europe/Berlin', guarantee: 'at-least-once' },
  async ({ lease, scheduledAt }) => {
    await db.transaction().execute(async (tx) => {
      await lease.guard(tx)
      await tx.insertInto('reports').values({ day: scheduledAt.toISOString(), made_by: process.pid }).execute()
    })
    console.log('made the report of', scheduledAt.toISOString())
  },
)
locks.on((event) => {
  if (event.type === 'error') console.error(event.during, event.cause)
})
await sleep(NIGHTS_MS)
await report.stop()
await end()
