import { onEveryEngine } from './harness.ts'
import { migrateSuite } from './migrate.ts'

onEveryEngine({ migrate: migrateSuite })
