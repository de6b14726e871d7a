//! Made-up samples of every action, for `send`, `demo` and tests. They have the shape of Alma's events, with invented
//! values.

/// One sample, with the placeholders `{id}` and `{time}`.
#[derive(Debug)]
pub struct Sample {
    /// The name on the command line.
    pub name: &'static str,
    template: &'static str,
}

impl Sample {
    /// The body with this id (digits) and this time (RFC 3339 in UTC).
    pub fn render(&self, id: &str, time: &str) -> String {
        self.template.replace("{id}", id).replace("{time}", time)
    }
}

/// Finds a sample by its name, in any case.
pub fn find(name: &str) -> Option<&'static Sample> {
    ALL.iter().find(|sample| sample.name.eq_ignore_ascii_case(name))
}

/// One sample for each action in JSON, and one in XML.
pub const ALL: [Sample; 9] = [
    Sample {
        name: "job_end",
        template: r#"{"id":"{id}","action":"JOB_END","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","job_instance":{"id":"{id}","name":"Publishing Platform Job Example Profile","progress":209.0,"status":{"value":"COMPLETED_FAILED","desc":"Completed with Errors"},"submitted_by":{"value":"System"},"submit_time":"2024-01-02T02:00:00.100Z","start_time":"2024-01-02T02:01:00.200Z","end_time":"{time}","status_date":"2024-01-02Z","alert":[{"value":"alert_general_error","desc":"The job completed with errors."}],"counter":[{"type":{"value":"label.new.records","desc":"New Records"},"value":"42"}],"job_info":{"id":"S900000000000001","name":"Publishing Platform Job Example Profile","category":{"value":"PUBLISHING","desc":"Publishing"},"link":"/almaws/v1/conf/jobs/S900000000000001"}}}"#,
    },
    Sample {
        name: "loan",
        template: r#"{"id":"{id}","action":"LOAN","institution":{"value":"01TEST_INST","desc":"Universität Musterstadt"},"time":"{time}","event":{"value":"LOAN_CREATED","desc":"Loan created"},"item_loan":{"loan_id":"2000000000000001","circ_desk":{"value":"DEFAULT_CIRC_DESK","desc":"Circulation Desk"},"return_circ_desk":{"value":"","desc":null,"link":null},"library":{"value":"MAIN","desc":"Main Library"},"user_id":"patron-0001","item_barcode":"BC000001","due_date":"2024-02-02T22:00:00Z","loan_status":"ACTIVE","loan_date":"2024-01-02T03:04:04.100Z","process_status":"NORMAL","mms_id":"990000000000001","holding_id":"220000000000001","item_id":"230000000000001","title":"Éxample title","author":null,"location_code":{"value":"OG","name":"Upper Floor"},"item_policy":{"value":"01","description":"Loan 28 days"},"renewable":true},"bib":null,"holding":null,"item":null,"portfolio":null,"representation":null}"#,
    },
    Sample {
        name: "request",
        template: r#"{"id":"{id}","action":"REQUEST","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","event":{"value":"REQUEST_CREATED","desc":"Request created"},"user_request":{"title":"Example","request_id":"83000000000001","request_type":"HOLD","user_primary_id":"patron-0001","mms_id":"990000000000001","barcode":null,"pickup_location":"Main","pickup_location_type":"LIBRARY","pickup_location_library":"MAIN","material_type":{"value":"BK","desc":"Book"},"request_status":"NOT_STARTED","place_in_queue":1,"request_date":"2024-01-02Z"}}"#,
    },
    Sample {
        name: "bib",
        template: r#"{"id":"{id}","action":"BIB","event":{"value":"BIB_UPDATED","desc":"BIB record updated"},"institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","bib":{"mms_id":"990000000000001","record_format":"marc21","linked_record_id":{"value":"990000000000009","type":"CZ"},"title":"Example","network_number":["(TEST)0001"],"created_by":"System","created_date":"2024-01-02Z","suppress_from_publishing":"false","rank":"35","anies":["<?xml version=\"1.0\" encoding=\"UTF-16\"?><record><leader>00000nam a2200000 a 4500</leader></record>"]}}"#,
    },
    Sample {
        name: "item",
        template: r#"{"id":"{id}","action":"ITEM","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","event":{"value":"ITEM_UPDATED","desc":"Item updated"},"item":{"item_data":{"barcode":"BC000001"}}}"#,
    },
    Sample {
        name: "user",
        template: r#"{"id":"{id}","action":"USER","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","event":{"value":"USER_UPDATED","desc":"User updated"},"webhook_user":{"method":"UPDATE","cause":"Example SIS","user":{"primary_id":"patron-0001","first_name":"Ada","last_name":"Example","user_group":{"value":"STUDENT"}}}}"#,
    },
    Sample {
        name: "notification",
        template: r#"{"id":"{id}","action":"NOTIFICATION","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","event":null}"#,
    },
    Sample {
        name: "new_action",
        template: r#"{"id":"{id}","action":"NEW_ACTION","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"{time}","event":{"value":"SOMETHING_NEW","desc":"What Alma may add to its list tomorrow"}}"#,
    },
    Sample {
        name: "job_end_xml",
        template: r#"<webhook><id>{id}</id><action>JOB_END</action><institution desc="Test University">01TEST_INST</institution><time>{time}</time><job_instance link="/almaws/v1/conf/jobs/S1/instances/{id}"><id>{id}</id><status desc="Completed Successfully">COMPLETED_SUCCESS</status><alerts><alert desc="The job completed successfully.">alert_general_success</alert></alerts><counters><counter><type desc="New Records">label.new.records</type><value>0</value></counter></counters></job_instance></webhook>"#,
    },
];
