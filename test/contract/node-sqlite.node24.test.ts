import { acquireSuite } from './acquire.ts'
import { administrationSuite } from './administration.ts'
import { argumentsSuite } from './arguments.ts'
import { closeSuite } from './close.ts'
import { eventsSuite } from './events.ts'
import { guardSuite } from './guard.ts'
import { onEveryEngine } from './harness.ts'
import { heartbeatSuite } from './heartbeat.ts'
import { leaseSuite } from './lease.ts'
import { migrateSuite } from './migrate.ts'
import { namesSuite } from './names.ts'
import { runSuite } from './run.ts'
import { synchronousSuite } from './synchronous.ts'
import { tokensSuite } from './tokens.ts'
import { waitingSuite } from './waiting.ts'

onEveryEngine({
  acquire: acquireSuite,
  administration: administrationSuite,
  arguments: argumentsSuite,
  close: closeSuite,
  events: eventsSuite,
  guard: guardSuite,
  heartbeat: heartbeatSuite,
  lease: leaseSuite,
  migrate: migrateSuite,
  names: namesSuite,
  run: runSuite,
  tokens: tokensSuite,
  waiting: waitingSuite,
  'a synchronous transaction': (subject) =>
    synchronousSuite(subject, (database, body) => {
      database.exec('begin immediate')
      try {
        body()
        database.exec('commit')
      } catch (error) {
        database.exec('rollback')
        throw error
      }
    }),
})
